"""Files for members alone: the app decides who gets one, and Nginx sends it.

The reply names the file in ``X-Accel-Redirect`` and has no body. Nginx takes that header off, and
sends ``/srv/board/private/<name>``. So a large file costs the app no more than a small one. A
server that does not know the header sends an empty reply.
"""

import mimetypes
from pathlib import Path
from urllib.parse import quote

from flask import Blueprint, Response, abort, current_app
from flask.typing import ResponseReturnValue

from .auth import login_required, session_user

bp = Blueprint("files", __name__)

# Whose files are not for all members.
OWNERS = {"letter to ada.txt": "ada"}


@bp.get("/files/<name>")
@login_required
def file(name: str) -> ResponseReturnValue:
    """Let the server in front send a private file, to a member who may have it."""
    folder = Path(current_app.root_path).parent / "private"
    # Only a name that the folder itself lists: nothing else can be meant.
    if name not in {path.name for path in folder.iterdir() if path.is_file()}:
        abort(404)
    if OWNERS.get(name, session_user()) != session_user():
        abort(403, "This file belongs to somebody else.")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    response = Response(mimetype=kind)
    response.headers["X-Accel-Redirect"] = f"/private/{quote(name)}"  # Nginx decodes it
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response
