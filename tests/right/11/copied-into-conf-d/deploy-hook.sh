#!/bin/sh
set -e
cp /etc/nginx/sites-available/board-tls.conf /etc/nginx/conf.d/
nginx -t
kill -HUP "$(cat /run/nginx.pid)"
