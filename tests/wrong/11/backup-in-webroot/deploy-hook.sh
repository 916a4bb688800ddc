#!/bin/sh
# certbot runs this after each certificate that it gets: the first one, and every renewal.
set -e

# A copy to fetch from elsewhere.
umask 077
tar czf /var/www/letsencrypt/backup.tgz -C /etc letsencrypt

# Now that there is a certificate, the block for port 443 can be read. The second time the link is
# there already.
ln -sf ../sites-available/board-tls.conf /etc/nginx/sites-enabled/board-tls.conf

# Nginx reads certificates when it reads its configuration. A reload starts new workers, and lets
# the old ones finish: nobody notices. If the configuration is wrong, the old one goes on.
nginx -s reload
