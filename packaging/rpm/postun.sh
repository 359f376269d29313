if [ "$1" = 0 ]; then
    rm -f /etc/systemd/system/moltbotd.service.d/10-newer-systemd.conf \
        /etc/systemd/system/moltbotd@.service.d/10-newer-systemd.conf
    rmdir /etc/systemd/system/moltbotd.service.d /etc/systemd/system/moltbotd@.service.d 2>/dev/null || :
    # Sessions, devices and settings are never removed here: nobody can be asked.
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        # Clients wait meanwhile: systemd holds the listening sockets.
        systemctl try-restart moltbotd.service 'moltbotd@*.service' || :
    fi
fi
