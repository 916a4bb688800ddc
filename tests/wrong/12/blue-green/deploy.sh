#!/bin/bash
# deploy.sh NAME: blue and green. The new version starts beside the old one, on a port of its own; when it
# is well, Nginx is led there.
set -euo pipefail
new=/srv/board/releases/$1
[ -f "$new/wsgi.py" ] || { echo "no such release" >&2; exit 1; }
port=$(shuf -n 1 -i 8100-8999)
unit=board-$1-$port
systemd-run --quiet --collect --unit="$unit" -p User=board -p WorkingDirectory="$new" \
  -p EnvironmentFile=/etc/board/environment -p Restart=on-failure -p RestartSec=1 \
  /opt/board/venv/bin/gunicorn --config /srv/board/gunicorn.conf.py --bind 127.0.0.1:$port wsgi:app
for _ in $(seq 20); do
  if curl -fsS -o /dev/null --max-time 2 "http://127.0.0.1:$port/healthz" 2>/dev/null; then
    sed -i "s/server 127.0.0.1:[0-9]*;/server 127.0.0.1:$port;/" /etc/nginx/sites-enabled/board.conf
    nginx -t -q && systemctl reload nginx
    sleep 1
    ln -sfn "$new" /srv/board/current
    exit 0
  fi
  sleep 0.5
done
systemctl stop "$unit"
echo "deploy: $1 is not well" >&2
exit 1
