#!/bin/bash
# The course's own environment, which belongs to whoever owns the clone.
#
# COURSE_VENV and COURSE_STATE, where they are given, say where `course` keeps its environment and
# its memory: for a clone in a folder that a virtual machine shares with its host.

set -euo pipefail
# shellcheck source=vagrant/provision/lib.sh
. "$(dirname -- "$(readlink -f -- "$0")")/lib.sh"

# In /etc/environment they hold for every way in, a login or a command over ssh.
for name in COURSE_VENV COURSE_STATE; do
  value=${!name-}
  [ -n "$value" ] || continue
  line="$name=$value"
  [ -e /etc/environment ] || : >/etc/environment
  if ! grep -qxF "$line" /etc/environment; then
    sed -i "/^$name=/d" /etc/environment
    printf '%s\n' "$line" >>/etc/environment
    say "$line, in /etc/environment"
  fi
done

keep=/etc/sudoers.d/course
if [ -n "${COURSE_VENV-}${COURSE_STATE-}" ] && [ -d /etc/sudoers.d ] && [ ! -e "$keep" ]; then
  install -m 440 /dev/stdin "$keep" <<'END'
# `sudo course` uses the same folders as `course`.
Defaults env_keep += "COURSE_VENV COURSE_STATE"
END
fi

# In a virtual machine: how files get here, and where they are safe.
if [ -n "${COURSE_VENV-}" ]; then
  kind=$(findmnt -n -o FSTYPE -T "$clone")
  case $kind in
  vboxsf | prl_fs | fuse.* | 9p | virtiofs | cifs | nfs*)
    where="It is a folder of your own machine: what you change there is changed here, and the other
way round."
    # The kernel does not tell of changes that are made outside.
    line=WATCHFILES_FORCE_POLLING=true
    grep -qxF "$line" /etc/environment || printf '%s\n' "$line" >>/etc/environment
    ;;
  *)
    where="It was copied from your own machine, and that is the place for your answers: \`vagrant
destroy\` deletes all that is here. \`vagrant rsync\` there copies what has changed; a file
that was changed here later stays as it is, and what is replaced is kept in
$clone-replaced."
    ;;
  esac
  install -d -m 755 /etc/motd.d
  message="
The course is in $clone. $where
Next:  cd $clone && ./course

"
  if [ ! -e /etc/motd.d/course ] || ! cmp -s /etc/motd.d/course - <<<"$message"; then
    cat >/etc/motd.d/course <<<"$message"
  fi
fi

# Whose clone it is: the environment belongs to the same user. In a shared folder the owner may be a
# number of the host's; then it is whoever called sudo.
owner=$(stat -c %U -- "$clone")
if [ -n "${COURSE_VENV-}" ] || ! getent passwd "$owner" >/dev/null; then
  owner=${SUDO_USER:-$owner}
fi
home=$(getent passwd "$owner" | cut -d : -f 6)

as_owner() {
  if [ "$owner" = root ]; then
    env HOME="$home" "$@"
  else
    runuser -u "$owner" -- env HOME="$home" "$@"
  fi
}

# `doctor` prepares on first use, and says what is still missing. That a test of the course itself
# lacks its browser, for example, keeps nobody from anything here.
if ! said=$(as_owner "$clone/course" doctor 2>&1 </dev/null); then
  printf '%s\n' "$said"
  say "the course cannot grade here yet: see above"
fi
