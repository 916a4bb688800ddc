#!/bin/sh
set -e
ln -sf "$RENEWED_LINEAGE/privkey.pem" "$RENEWED_LINEAGE/fullchain.pem" /srv/board/tls/
nginx -s reload
