systemd-sysusers moltbotd.conf
systemd-tmpfiles --create moltbotd.conf || :
for unit in moltbotd.service moltbotd@.service; do
    version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    if [ "${version:-0}" -ge 254 ]; then
        mkdir -p "/etc/systemd/system/$unit.d"
        ln -sfn /usr/share/moltbotd/systemd/newer-systemd.conf "/etc/systemd/system/$unit.d/10-newer-systemd.conf"
    fi
done
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
