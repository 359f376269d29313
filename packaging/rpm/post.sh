systemd-sysusers moltbotd.conf
systemd-tmpfiles --create moltbotd.conf || :
# Words that only newer versions of systemd know.
version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
for unit in moltbotd.service moltbotd@.service; do
    dropin=/etc/systemd/system/$unit.d/10-newer-systemd.conf
    if [ "${version:-0}" -ge 254 ]; then
        mkdir -p "${dropin%/*}"
        ln -sfn /usr/share/moltbotd/systemd/newer-systemd.conf "$dropin"
    elif [ -L "$dropin" ]; then
        rm -f "$dropin"
    fi
done
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
