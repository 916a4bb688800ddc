#!/bin/bash
# Due when less than a third of its life is left, however long that is.
set -euo pipefail
pem=/etc/letsencrypt/live/board.example/cert.pem
from=$(date -d "$(openssl x509 -noout -startdate -in $pem | cut -d= -f2)" +%s)
to=$(date -d "$(openssl x509 -noout -enddate -in $pem | cut -d= -f2)" +%s)
if openssl x509 -noout -checkend $(((to - from) / 3)) -in $pem; then
    exit 0
fi
certbot renew -q --cert-name board.example --force-renewal
