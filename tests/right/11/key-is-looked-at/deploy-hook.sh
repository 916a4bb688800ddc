#!/bin/sh
# certbot runs this after each certificate that it gets: the first one, and every renewal.
set -e

# Never hand Nginx something that is no key.
grep -q -e '-----BEGIN .*PRIVATE KEY-----' "$RENEWED_LINEAGE/privkey.pem"

# Now that there is a certificate, the block for port 443 can be read. The second time the link is
# there already.
ln -sf ../sites-available/board-tls.conf /etc/nginx/sites-enabled/board-tls.conf

# Nginx reads certificates when it reads its configuration. A reload starts new workers, and lets
# the old ones finish: nobody notices. If the configuration is wrong, the old one goes on.
nginx -s reload
