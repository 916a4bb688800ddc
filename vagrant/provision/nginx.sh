#!/bin/bash
# Nginx in front: Debian's own nginx.conf, and the course's site in sites-enabled/.

set -euo pipefail
# shellcheck source=vagrant/provision/lib.sh
. "$(dirname -- "$(readlink -f -- "$0")")/lib.sh"

reload=
enabled=/etc/nginx/sites-enabled

install -d -m 755 /var/www/letsencrypt /var/cache/nginx

# The package's own site answers for every name that no other site claims.
if [ -L "$enabled/default" ]; then
  rm -- "$enabled/default"
  say "removed $enabled/default, the package's welcome page; it is still in sites-available"
  reload=yes
elif [ -e "$enabled/default" ]; then
  say "$enabled/default is not the package's link: left as it is"
fi

# What lab 15 puts online beside the board.
place_folder "$clone/labs/15/site" /srv/docs
placed=0

place "$clone/solutions/03/nginx.conf" "$enabled/board.conf"
if changed; then
  say "put the site into $enabled/board.conf"
  reload=yes
fi

if ! said=$(nginx -t 2>&1); then
  printf '%s\n' "$said" >&2
  stop "nginx does not accept its configuration: see above"
fi
systemctl -q is-enabled nginx.service 2>/dev/null || systemctl -q enable nginx.service
if ! systemctl -q is-active nginx.service; then
  systemctl start nginx.service ||
    stop "nginx does not start; its last words:  journalctl -u nginx -n 20"
elif [ -n "$reload" ]; then
  systemctl reload nginx.service
fi
