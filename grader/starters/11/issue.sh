#!/bin/sh
# Get the first certificate.

certbot certonly --standalone \
    --server "$ACME_SERVER" \
    --agree-tos --register-unsafely-without-email \
    --domain board.example

echo "That was it."
