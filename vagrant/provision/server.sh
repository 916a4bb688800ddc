#!/bin/bash
# server.sh CLONE: prepares a server for the course. For Debian 12, Ubuntu 24.04 and newer.
#
# As root; may be run again at any time. What is right already is left alone, and what somebody has
# changed is not overwritten. docs/guides/server.md says what is where afterwards.

set -euo pipefail

here=$(dirname -- "$(readlink -f -- "$0")")
# shellcheck source=vagrant/provision/lib.sh
. "$here/lib.sh"

for step in packages boxes; do
  bash "$here/$step.sh" "$clone"
done

# Two environments of Python, which know nothing of each other: each takes a minute or more to make.
bash "$here/course.sh" "$clone" &
course=$!
app=0
bash "$here/app.sh" "$clone" || app=$?
wait "$course"
[ "$app" -eq 0 ] || exit "$app"

for step in certificates nginx finish; do
  bash "$here/$step.sh" "$clone"
done
