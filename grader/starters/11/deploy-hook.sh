#!/bin/sh
# What is to be done when there is a new certificate.

echo "A new certificate for $RENEWED_DOMAINS is in $RENEWED_LINEAGE."
