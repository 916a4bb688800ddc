#!/bin/sh
# Renew the certificate.

certbot renew --force-renewal
