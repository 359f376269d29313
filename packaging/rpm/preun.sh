# $1 is the number of versions that stay: 0 is the removal of the last one.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    # `stop` knows patterns, `disable` does not: the links go when the files have gone. Sockets come first, for a
    # client would start the service again.
    systemctl stop moltbotd.socket 'moltbotd@*.socket' || :
    systemctl stop moltbotd.service 'moltbotd@*.service' || :
fi
