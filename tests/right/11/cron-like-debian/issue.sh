#!/bin/sh
set -eu
certbot certonly -n --agree-tos --register-unsafely-without-email --server "$ACME_SERVER" \
    --webroot -w /var/www/letsencrypt -d board.example,www.board.example \
    --deploy-hook /srv/board/deploy-hook.sh
