#!/bin/bash
# deploy.sh NAME: tried on a port of its own, with the service's environment, then put live.
set -euo pipefail
new=/srv/board/releases/$1
[ -f "$new/wsgi.py" ] || exit 1
systemctl stop board-try 2>/dev/null || true
systemd-run --quiet --collect --unit=board-try --uid=board --working-directory="$new" \
  $(sed 's/^/--setenv=/' /etc/board/environment) \
  /opt/board/venv/bin/gunicorn -c /srv/board/gunicorn.conf.py --bind 127.0.0.1:8999 wsgi:app
ok=
for _ in $(seq 20); do
  sleep 0.5
  curl -fsS -o /dev/null --max-time 3 http://127.0.0.1:8999/healthz && { ok=1; break; }
done
systemctl stop board-try 2>/dev/null || true
[ "$ok" ] || exit 1
ln -sfn "releases/$1" /srv/board/current
systemctl restart board
