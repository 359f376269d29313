#!/usr/bin/env bash
# Unpacks a server of Debian for the tests without installing it: an installed one would listen on its
# usual port.
#
#   tests/unpack.sh FOLDER PROGRAM PACKAGE...    unless FOLDER/PROGRAM is there already
set -euo pipefail
folder=$(realpath -m "$1")
program=$2
packages=("${@:3}")
[ -x "$folder/$program" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
cd "$work"
apt-get download -q "${packages[@]}" 2>/dev/null \
    || { apt-get update -q && apt-get download -q "${packages[@]}"; } \
    || { echo "tests/unpack.sh: cannot fetch ${packages[*]} with apt-get" >&2; exit 1; }
mkdir root
for package in *.deb; do
    dpkg -x "$package" root
done
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv root "$folder"
