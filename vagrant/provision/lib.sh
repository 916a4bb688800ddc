# shellcheck shell=bash
# What the scripts of this folder share. Each is run as root with one argument: the course's clone.
#
#   place FILE TARGET [MODE]   puts a file of the course there, unless another one is there already
#   place_folder FROM TO       so with all files of a folder
#   say, stop                  what to tell, and to end with it
#   changed                    whether `place` has written anything so far

set -euo pipefail
umask 022

settings=/etc/board
# What was put where: a line `SHA-256  PATH` for each file. Tells a file of ours from yours.
ledger=$settings/provisioned
placed=0

say() {
  printf 'provision: %s\n' "$*"
}

stop() {
  printf 'provision: %s\n' "$*" >&2
  exit 1
}

changed() {
  [ "$placed" -gt 0 ]
}

checksum() {
  sha256sum <"$1" | cut -d ' ' -f 1
}

remember() {
  install -d -m 755 "$settings"
  touch "$ledger"
  if ! grep -qxF "$1  $2" "$ledger"; then
    {
      awk -v path="$2" 'substr($0, 67) != path' "$ledger"
      printf '%s  %s\n' "$1" "$2"
    } >"$ledger.new"
    mv -- "$ledger.new" "$ledger"
  fi
}

# A file that is there and is not what we put there was changed by somebody, or deployed: it stays.
place() {
  local source=$1 target=$2 mode=${3:-644} sum
  if [ -L "$source" ]; then
    if [ ! -e "$target" ] && [ ! -L "$target" ]; then
      cp -P -- "$source" "$target"
      placed=$((placed + 1))
    fi
    return
  fi
  if [ -e "$target" ] || [ -L "$target" ]; then
    if cmp -s -- "$source" "$target"; then
      return
    fi
    if [ -L "$target" ] || [ ! -f "$target" ] || ! [ -e "$ledger" ] ||
      ! grep -qxF "$(checksum "$target")  $target" "$ledger"; then
      say "$target was deployed or changed: left as it is"
      return
    fi
  fi
  sum=$(checksum "$source")
  install -p -m "$mode" -- "$source" "$target.new"
  mv -- "$target.new" "$target"
  remember "$sum" "$target"
  placed=$((placed + 1))
}

# A folder with all that is in it, less what Python has compiled.
place_folder() {
  local source to
  [ -d "$2" ] || install -d -m 755 "$2"
  while IFS= read -r -d '' source; do
    to=$2/${source#"$1/"}
    if [ -d "$source" ] && [ ! -L "$source" ]; then
      [ -d "$to" ] || install -d -m 755 "$to"
    else
      place "$source" "$to"
    fi
  done < <(find "$1" -mindepth 1 -name __pycache__ -prune -o -print0 | sort -z)
}

[ "$(id -u)" = 0 ] || stop "this prepares a server: it needs root's rights (sudo)"
[ $# -eq 1 ] && [ -f "$1/course" ] && [ -d "$1/labs/board" ] ||
  stop "say where the course's clone is: $0 FOLDER"
# shellcheck disable=SC2034  # for the script that reads this
clone=$(readlink -f -- "$1")
