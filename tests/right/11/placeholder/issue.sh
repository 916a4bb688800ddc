#!/bin/sh
# A placeholder first, made by ourselves: Nginx has TLS at once. certbot's takes its place.
set -e
mkdir -p -m 700 /srv/board/tls
if [ ! -e /srv/board/tls/privkey.pem ]; then
  openssl req -x509 -nodes -newkey rsa:2048 -days 30 -subj /CN=board.example \
    -keyout /srv/board/tls/privkey.pem -out /srv/board/tls/fullchain.pem
fi
ln -sf ../sites-available/board-tls.conf /etc/nginx/sites-enabled/board-tls.conf
nginx -s reload
certbot certonly --non-interactive --server "$ACME_SERVER" --agree-tos \
    --register-unsafely-without-email --webroot -w /var/www/letsencrypt --cert-name board.example \
    -d board.example -d www.board.example --keep-until-expiring --deploy-hook /srv/board/deploy-hook.sh
