#!/bin/bash
# The app as a service: its user, its files, its own virtual environment, its secret, its unit.

set -euo pipefail
# shellcheck source=vagrant/provision/lib.sh
. "$(dirname -- "$(readlink -f -- "$0")")/lib.sh"

target=/srv/board
venv=/opt/board/venv
stamp=$venv/.provisioned
restart=
renew=

if ! getent passwd board >/dev/null; then
  # Gunicorn keeps a socket in its user's home: so that is the folder of the service's data.
  useradd --system --user-group --home-dir /var/lib/board --no-create-home \
    --shell /usr/sbin/nologin board
  say "made the user board"
fi

# --- The files ---------------------------------------------------------------------------------

place_folder "$clone/labs/board" "$target"

# Mostly holes; each MiB begins with its number, in 8 bytes.
if [ ! -e "$target/static/large.bin" ]; then
  python3 -I -c '
import os, struct, sys
with open(sys.argv[1] + ".new", "wb") as made:
    made.truncate(20 << 20)
    for number in range(20):
        os.pwrite(made.fileno(), struct.pack(">Q", number), number << 20)
os.rename(sys.argv[1] + ".new", sys.argv[1])
' "$target/static/large.bin"
fi

# The first site is the solution of lab 03: one that works. `course deploy` puts others there.
for name in wsgi.py gunicorn.conf.py; do
  place "$clone/solutions/03/$name" "$target/$name"
done
if changed; then
  say "put the app into $target ($placed files)"
  restart=yes
fi

# --- Its Python --------------------------------------------------------------------------------

# gevent: one of Gunicorn's kinds of workers, which a gunicorn.conf.py may ask for.
# prometheus_client: what lab 13's app counts with.
needs=(flask 'gunicorn[gevent]' prometheus_client)
wanted=$({
  printf '%s\n' "${needs[@]}" "$(readlink -f /usr/bin/python3)"
  cat -- "$clone/requirements.txt"
} | sha256sum)
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  say "installing ${needs[*]} into $venv"
  if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -I -c 'import pip' 2>/dev/null; then
    rm -rf -- "$venv"
    install -d -m 755 "$(dirname "$venv")"
    python3 -I -m venv "$venv"
  fi
  rm -f -- "$stamp"
  PIP_USER=0 "$venv/bin/python" -I -m pip --disable-pip-version-check --no-input --quiet install \
    --progress-bar off -c "$clone/requirements.txt" "${needs[@]}"
  printf '%s\n' "$wanted" >"$stamp"
  restart=yes
fi
# The service may not write here: what is not compiled now would be compiled at every start.
[ -z "$restart" ] || "$venv/bin/python" -I -m compileall -q "$target/board"

# --- Its secret --------------------------------------------------------------------------------

environment=$settings/environment
install -d -m 755 "$settings"
if [ ! -e "$environment" ]; then
  (
    umask 077
    printf 'BOARD_SECRET_KEY=%s\nBOARD_DATABASE=/var/lib/board/board.db\n' \
      "$(openssl rand -hex 32)" >"$environment.new"
  )
  chown root:board "$environment.new"
  chmod 640 "$environment.new"
  mv -- "$environment.new" "$environment"
  say "made a secret key for the app, in $environment"
  restart=yes
fi

# --- Its unit ----------------------------------------------------------------------------------

placed=0
place "$(dirname -- "$(readlink -f -- "$0")")/board.service" /etc/systemd/system/board.service
if changed; then
  renew=yes
  restart=yes
fi
[ -z "$renew" ] || systemctl daemon-reload
systemctl -q is-enabled board.service 2>/dev/null || systemctl -q enable board.service
if [ -n "$restart" ]; then
  systemctl restart board.service ||
    stop "the app does not start; its last words:  journalctl -u board -n 20"
elif ! systemctl -q is-active board.service; then
  systemctl start board.service ||
    stop "the app does not start; its last words:  journalctl -u board -n 20"
fi
