#!/bin/sh
# Both names. Without www, if its DNS is not there yet.
certbot certonly --non-interactive --server "$ACME_SERVER" --agree-tos \
    --register-unsafely-without-email --webroot -w /var/www/letsencrypt --cert-name board.example \
    -d board.example -d www.board.example --keep-until-expiring --deploy-hook /srv/board/deploy-hook.sh ||
certbot certonly --non-interactive --server "$ACME_SERVER" --agree-tos \
    --register-unsafely-without-email --webroot -w /var/www/letsencrypt --cert-name board.example \
    -d board.example --keep-until-expiring --deploy-hook /srv/board/deploy-hook.sh
