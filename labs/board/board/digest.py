"""Bodies are measured as they come in, and never held."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager

from flask import request
from werkzeug.exceptions import BadRequest, HTTPException

CHUNK = 65536


class Digest(io.BytesIO):
    """A file that forgets: it keeps the length and the SHA-256 of what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Count the data and let go of it."""
        self.length += len(data)
        self._sha256.update(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Do nothing: there is nothing to go back to."""
        return 0

    def as_dict(self) -> dict[str, str | int]:
        """Give what is known, for a JSON reply."""
        return {"length": self.length, "sha256": self._sha256.hexdigest()}


def read_body() -> Digest:
    """Read the request's body, of a known length or chunked, 64 KB at a time."""
    digest = Digest()
    with broken_body_is_400():
        while chunk := request.stream.read(CHUNK):
            digest.write(chunk)
    # Gunicorn ends the stream without a word when the visitor leaves in the middle.
    if digest.length < (request.content_length or 0):
        raise BadRequest("The body of the request breaks off.")
    return digest


@contextmanager
def broken_body_is_400() -> Iterator[None]:
    """Answer 400 to a body that breaks off or is badly chunked.

    Every server raises an exception of its own then, Gunicorn's are not even OSErrors.
    """
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        raise BadRequest("The body of the request is broken.") from error
