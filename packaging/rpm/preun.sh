# $1 is the number of versions that stay: 0 is the removal of the last one.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now moltbotd.socket moltbotd.service 'moltbotd@*.service' 'moltbotd@*.socket' || :
fi
