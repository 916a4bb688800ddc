#!/bin/bash
# deploy.sh NAME: the running master gets new workers (HUP), in the folder where the link leads then.
set -euo pipefail

exec 9>/run/lock/deploy-board
flock 9
new=/srv/board/releases/$1
old=$(readlink -f /srv/board/current)

workers() { pgrep -P "$(systemctl show -p MainPID --value board.service)" | sort; }

# Until the last of the old workers has gone, visitors may still meet one.
go_to() {
  local before
  ln -sfn "$1" /srv/board/.next
  mv -T /srv/board/.next /srv/board/current
  before=$(workers)
  systemctl reload board.service
  for _ in $(seq 150); do
    if [ -z "$(comm -12 <(echo "$before") <(workers))" ] && [ -n "$(workers)" ]; then
      break
    fi
    sleep 0.1
  done
  curl --fail --silent --max-time 5 --output /dev/null http://127.0.0.1:8000/healthz
}

cd "$new"
# What cannot be loaded would take the master along.
(
  set -a
  . /etc/board/environment
  exec setpriv --reuid=board --regid=board --init-groups env -C "$new" \
    /opt/board/venv/bin/python -B -c 'import wsgi; wsgi.app'
)
go_to "$new" && exit
go_to "$old"
exit 1
