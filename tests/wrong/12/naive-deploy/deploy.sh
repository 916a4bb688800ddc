#!/bin/sh
# deploy.sh NAME: serves /srv/board/releases/NAME from now on.
set -eu

cd /srv/board
ln -sfn "releases/$1" current
systemctl restart board.service
