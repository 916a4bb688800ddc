#!/bin/sh
# Renew what is due. certbot decides by the certificate's own dates, so this may run at any time.
# Its status is certbot's: not 0 when a renewal failed, so that somebody is told.
exec certbot renew --force-renewal --non-interactive
