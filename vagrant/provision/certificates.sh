#!/bin/bash
# Certificates for the labs about TLS, where no real ones are: what certbot would have left.

set -euo pipefail
# shellcheck source=vagrant/provision/lib.sh
. "$(dirname -- "$(readlink -f -- "$0")")/lib.sh"

[ ! -e /etc/letsencrypt/live/board.example ] || exit 0

python=${COURSE_VENV:-$clone/.venv}/bin/python
[ -x "$python" ] || stop "the course's environment is missing: $clone/course doctor"
PYTHONDONTWRITEBYTECODE=1 "$python" -P - <<'END'
import os
from pathlib import Path

from grader.certificates import make_certificates

made = make_certificates(more=["docs.board.example"])  # a name of lab 15's
live = Path("/etc/letsencrypt/live")
live.parent.mkdir(mode=0o755, exist_ok=True)
live.mkdir(mode=0o700, exist_ok=True)
(live.parent / "course-root.pem").write_text(made.root)
folders = {}
for one in made.files:
    folders.setdefault(Path(one.path).parent, []).append(one)
# The site's own comes last: where it is, all are.
for folder, files in sorted(folders.items(), key=lambda item: item[0].name == "board.example"):
    if folder.exists():
        print(f"provision: {folder} is there: left as it is")
        continue
    new = folder.with_name(f".{folder.name}.new")
    new.mkdir(exist_ok=True)
    for one in files:
        path = new / Path(one.path).name
        path.touch(mode=one.mode)
        path.write_bytes(one.data)
    os.rename(new, folder)
END
say "made certificates for board.example; their root is /etc/letsencrypt/course-root.pem"
