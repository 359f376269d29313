if [ "$1" = 0 ]; then
    for unit in moltbotd.service moltbotd@.service; do
        rm -f "/etc/systemd/system/$unit.d/10-newer-systemd.conf"
        rmdir "/etc/systemd/system/$unit.d" 2>/dev/null || :
    done
    # Links that `systemctl enable` made, also those of profiles.
    rm -f /etc/systemd/system/*.wants/moltbotd.service /etc/systemd/system/*.wants/moltbotd@*.service \
        /etc/systemd/system/*.wants/moltbotd.socket /etc/systemd/system/*.wants/moltbotd@*.socket
    # cargo-generate-rpm cannot make a folder the package's own.
    rmdir /usr/share/moltbotd/systemd /usr/share/moltbotd /usr/share/doc/moltbotd /usr/share/licenses/moltbotd \
        2>/dev/null || :
    # Sessions, devices and settings are never removed here: nobody can be asked.
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then
        # Clients wait meanwhile: systemd holds the listening sockets.
        systemctl try-restart moltbotd.service 'moltbotd@*.service' || :
    fi
fi
