#!/bin/bash
# deploy.sh NAME: serves /srv/board/releases/NAME from now on.
set -eu

cd /srv/board
new=releases/$1
old=$(readlink current)

switch_to() {
  ln -sfn "$1" current.new
  mv -T current.new current
}

serve() {
  switch_to "$1"
  systemctl restart board.service || return 1
  curl -fsS -o /dev/null --max-time 15 http://127.0.0.1:8000/healthz
}

test -f "$new/wsgi.py" || { echo "deploy: there is no $new" >&2; exit 1; }

# What the app needs to start, for us and for systemd-run.
set -a
. /etc/board/environment
set +a
systemctl import-environment BOARD_SECRET_KEY BOARD_DATABASE
trap 'systemctl unset-environment BOARD_SECRET_KEY BOARD_DATABASE' EXIT
if ! systemd-run --quiet --wait --pipe --collect -p User=board -p WorkingDirectory="/srv/board/$new" \
    -p RuntimeMaxSec=20 \
    /opt/board/venv/bin/gunicorn --check-config --config /srv/board/gunicorn.conf.py wsgi:app; then
  echo "deploy: $new does not start; nothing was changed" >&2
  exit 1
fi
if ! serve "$new"; then
  echo "deploy: $new is not well; back to $old" >&2
  serve "$old"
  exit 1
fi
