#!/usr/bin/env bash
# Unpacks Debian's openssh-server for the tests, without installing it: an installed one would listen
# on port 22. Cached in MOLTBOT_TESTS_SSHD, or ~/.cache/moltbot-tests/sshd.
set -euo pipefail
folder=${MOLTBOT_TESTS_SSHD:-$HOME/.cache/moltbot-tests/sshd}
[ -x "$folder/usr/sbin/sshd" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
packages=(openssh-server libwrap0)
apt-get download -q "${packages[@]}" 2>/dev/null \
    || { apt-get update -q && apt-get download -q "${packages[@]}"; } \
    || { echo "tests/sshd.sh: cannot fetch ${packages[*]} with apt-get" >&2; exit 1; }
mkdir root
for package in *.deb; do
    dpkg -x "$package" root
done
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv root "$folder"
