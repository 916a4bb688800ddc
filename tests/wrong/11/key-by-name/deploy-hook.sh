#!/bin/sh
# certbot runs this after each certificate that it gets: the first one, and every renewal.
set -e

# A copy for each name: Nginx finds it by SNI. Renamed, so that nobody reads half a file.
umask 077
mkdir -p /srv/board/tls
for name in board.example www.board.example; do
    cp "$RENEWED_LINEAGE/privkey.pem" /srv/board/tls/$name.key.new
    cp "$RENEWED_LINEAGE/fullchain.pem" /srv/board/tls/$name.crt.new
    mv /srv/board/tls/$name.key.new /srv/board/tls/$name.key
    mv /srv/board/tls/$name.crt.new /srv/board/tls/$name.crt
done

# Now that there is a certificate, the block for port 443 can be read. The second time the link is
# there already.
ln -sf ../sites-available/board-tls.conf /etc/nginx/sites-enabled/board-tls.conf

# Nginx reads certificates when it reads its configuration. A reload starts new workers, and lets
# the old ones finish: nobody notices. If the configuration is wrong, the old one goes on.
nginx -s reload
