#!/usr/bin/env bash
# Unpacks Debian's nginx for the tests, without installing it: an installed one would listen on port
# 80. Cached in MOLTBOT_TESTS_NGINX, or ~/.cache/moltbot-tests/nginx.
set -euo pipefail
folder=${MOLTBOT_TESTS_NGINX:-$HOME/.cache/moltbot-tests/nginx}
[ -x "$folder/usr/sbin/nginx" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
packages=(nginx)
apt-get download -q "${packages[@]}" 2>/dev/null \
    || { apt-get update -q && apt-get download -q "${packages[@]}"; } \
    || { echo "tests/nginx.sh: cannot fetch ${packages[*]} with apt-get" >&2; exit 1; }
mkdir root
for package in *.deb; do
    dpkg -x "$package" root
done
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv root "$folder"
