#!/bin/sh
set -e
# An account first, once.
certbot show_account --server "$ACME_SERVER" >/dev/null 2>&1 ||
    certbot register -n --server "$ACME_SERVER" --agree-tos -m admin@board.example --no-eff-email
certbot certonly -n --server "$ACME_SERVER" --cert-name board.example --key-type rsa --reuse-key \
    --webroot -w /var/www/letsencrypt -d www.board.example -d board.example --keep \
    --deploy-hook 'sh /srv/board/deploy-hook.sh'
