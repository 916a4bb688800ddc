#!/bin/sh
# Get the first certificate. Run again, it changes nothing while the certificate is good.

# One certificate for both names. certbot remembers all of this, the hook too, and renews by it.
# --keep-until-expiring: who asks for a new one at every run is soon asked to wait for a week.
exec certbot certonly --non-interactive \
    --server "$ACME_SERVER" \
    --agree-tos --register-unsafely-without-email \
    --webroot --webroot-path /var/www/letsencrypt \
    --cert-name board.example \
    --domain board.example --domain www.board.example \
    --key-type ecdsa --reuse-key \
    --keep-until-expiring \
    --deploy-hook /srv/board/deploy-hook.sh
