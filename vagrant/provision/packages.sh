#!/bin/bash
# The programs that the course, its app and its site need, by apt.

set -euo pipefail
# shellcheck source=vagrant/provision/lib.sh
. "$(dirname -- "$(readlink -f -- "$0")")/lib.sh"

packages=(
  nginx bubblewrap iproute2 curl util-linux python3 python3-venv ca-certificates openssl
  wrk nghttp2-client # put a load on a site, for the notebooks
)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [ "$state" = 'ii ' ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || stop "there is no apt-get here: this is for Debian and Ubuntu"
say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# A machine that has just started may be updating its own lists: wait for it.
for try in $(seq 60); do
  said=$(apt-get -q update 2>&1) && break
  [[ $said == *lists/lock* ]] && [ "$try" -lt 60 ] || {
    say "apt-get update failed; trying with the lists that are here"
    break
  }
  sleep 2
done
apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
  install --no-install-recommends "${missing[@]}" >/dev/null
