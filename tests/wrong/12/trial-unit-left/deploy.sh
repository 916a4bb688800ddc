#!/bin/sh
# deploy.sh NAME: serves /srv/board/releases/NAME from now on. If that one is no good, nothing
# changes, and the exit code is 1.
set -eu

cd /srv/board
new=releases/$1
old=$(readlink current)
gunicorn=/opt/board/venv/bin/gunicorn

# The name is put in its place by a rename: at no moment is there none.
switch_to() {
  ln -sfn "$1" current.new
  mv -T current.new current
}

# A restart, and not a reload: a running Gunicorn is in the folder that it was started in. The socket
# keeps who comes meanwhile.
serve() {
  switch_to "$1"
  systemctl restart board.service || return 1
  # Straight to the app: what Nginx would say of it is another question. It waits like a visitor.
  curl -fsS -o /dev/null --max-time 15 http://127.0.0.1:8000/healthz
}

# Before any visitor is concerned: does it start at all? As the service's user, with its secrets.
try_out() {
  [ -f "$1/wsgi.py" ] || return 1
  systemd-run --quiet --wait --pipe --unit=board-trial -p User=board -p WorkingDirectory="/srv/board/$1" \
    -p EnvironmentFile=/etc/board/environment -p RuntimeMaxSec=20 \
    "$gunicorn" --check-config --config /srv/board/gunicorn.conf.py wsgi:app
}

if ! try_out "$new"; then
  echo "deploy: $new does not start; nothing was changed" >&2
  exit 1
fi
if ! serve "$new"; then
  echo "deploy: $new is not well; back to $old" >&2
  serve "$old"
  exit 1
fi
echo "deploy: $new serves"
