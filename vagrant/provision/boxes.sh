#!/bin/bash
# Lets ordinary users make namespaces, which the boxes of the grader are made of.

set -euo pipefail
# shellcheck source=vagrant/provision/lib.sh
. "$(dirname -- "$(readlink -f -- "$0")")/lib.sh"

file=/etc/sysctl.d/60-course-boxes.conf

# allow NAME FORBIDDEN ALLOWED: a line for sysctl.d, where the machine forbids it now.
allow() {
  local path=/proc/sys/${1//.//}
  [ -r "$path" ] && [ "$(cat "$path")" = "$2" ] || return 0
  if [ ! -e "$file" ]; then
    cat >"$file" <<'END'
# The course grades a site in a box of its own, which bubblewrap makes of namespaces, without any
# right of root's. This machine kept them from ordinary users. Remove this file to forbid them
# again; then no lab can be graded in a box.
END
  fi
  printf '%s = %s\n' "$1" "$3" >>"$file"
  sysctl -q -w "$1=$3"
  say "allowed namespaces to ordinary users: $1 = $3, in $file"
}

allow kernel.apparmor_restrict_unprivileged_userns 1 0 # Ubuntu 23.10 and later
allow kernel.unprivileged_userns_clone 0 1             # older kernels of Debian
allow user.max_user_namespaces 0 15000
