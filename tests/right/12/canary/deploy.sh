#!/bin/bash
# deploy.sh NAME: the new version is tried on a port of its own, then it takes the place of the old one.
set -euo pipefail
new=/srv/board/releases/$1
test -d "$new" || { echo "there is no $new" >&2; exit 2; }
well() {
  for _ in $(seq 20); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' --max-time 3 "$1/healthz")" = 200 ] && return
    sleep 0.5
  done
  return 1
}
trap 'systemctl stop board-canary.service 2>/dev/null || true' EXIT
systemd-run --quiet --collect --unit=board-canary --uid=board --gid=board --working-directory="$new" \
  --property=EnvironmentFile=/etc/board/environment \
  /opt/board/venv/bin/gunicorn -c /srv/board/gunicorn.conf.py --workers 1 --bind 127.0.0.1:8999 wsgi:app
well http://127.0.0.1:8999 || { echo "$1 is not well" >&2; exit 1; }
ln -sfn "$new" /srv/board/current
systemctl try-restart board
well http://localhost
