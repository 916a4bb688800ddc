#!/bin/bash
# The site's name on this machine, and the mark by which `course deploy` knows its servers.

set -euo pipefail
# shellcheck source=vagrant/provision/lib.sh
. "$(dirname -- "$(readlink -f -- "$0")")/lib.sh"

if ! grep -qE '^[^#]*[[:space:]]board\.example([[:space:]]|$)' /etc/hosts; then
  printf '127.0.0.1 board.example www.board.example docs.board.example\n' >>/etc/hosts
  say "board.example is this machine, in /etc/hosts"
fi

marker=$settings/course-server
told=$(python3 -I -c '
import json, sys, tomllib
with open(sys.argv[1] + "/pyproject.toml", "rb") as project:
    version = tomllib.load(project)["project"]["version"]
print(json.dumps({"clone": sys.argv[1], "version": version}))
' "$clone")
if [ ! -e "$marker" ] || [ "$(cat "$marker")" != "$told" ]; then
  printf '%s\n' "$told" >"$marker.new"
  mv -- "$marker.new" "$marker"
fi

# An app that has just started may need a moment.
answer=
for _ in $(seq 50); do
  answer=$(curl -s -o /dev/null -m 10 -w '%{http_code}' --resolve board.example:80:127.0.0.1 \
    http://board.example/healthz || true)
  # 301: a site that leads everybody to https.
  case $answer in 200 | 301 | 308) break ;; esac
  sleep 0.2
done
case $answer in
200 | 301 | 308) say "ready: the site answers on port 80" ;;
*)
  say "the site does not answer on port 80 (status $answer); the services' last words:" \
    "journalctl -u board -u nginx -n 20"
  ;;
esac
