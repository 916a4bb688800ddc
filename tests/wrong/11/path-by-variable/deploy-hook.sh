#!/bin/sh
# certbot runs this after each certificate that it gets: the first one, and every renewal.
set -e

# Nginx reads certificates when it reads its configuration. A reload starts new workers, and lets
# the old ones finish: nobody notices. If the configuration is wrong, the old one goes on.
nginx -s reload
