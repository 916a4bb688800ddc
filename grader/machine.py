"""A machine that a site runs on: what the grader asks of it, over one socket.

A box (`grader.sandbox`) is one, and so is a server that runs already (`grader.live`). At the other
end a small program answers, in the machine's own namespaces and with its root's rights: each
message is a length (4 bytes, big endian) and that many bytes of JSON, and an answer may carry file
descriptors (``SCM_RIGHTS``).
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grader.errors import GraderError


@dataclass(frozen=True)
class File:
    """A file to place: where, what, its mode; `root`: services may never write to it."""

    path: str
    data: bytes
    mode: int = 0o644
    root: bool = False

    def packed(self) -> dict[str, Any]:
        """Shape the file for a message."""
        data = base64.b64encode(self.data).decode()
        return {"path": self.path, "data": data, "mode": self.mode, "root": self.root}


class Machine(ABC):
    """One machine.

    Args:
        control: the socket to the program that answers.
        patience: seconds that it may take to answer.
        name: what messages call the machine.
        over: what they say when it has ended.

    Attributes:
        real: whether it is a server, where programs run as the users that its administrator chose;
            in a box they all run as one.
    """

    real = False

    def __init__(self, control: socket.socket, patience: float, name: str, over: str) -> None:
        self._lock = threading.Lock()
        self._control = control
        self._control.settimeout(patience)
        self._name, self._over = name, over
        self.pid = 0  # of a process in its namespaces; 0 for those of the grader itself

    def request(self, do: str, **message: Any) -> dict[str, Any]:
        """Ask the machine to do something; returns its answer.

        Raises:
            GraderError: it is gone, or could not do it.
        """
        return self._ask(do, 0, message)[0]

    def _ask(
        self, do: str, descriptors: int, message: dict[str, Any]
    ) -> tuple[dict[str, Any], list[int]]:
        body = json.dumps({"do": do, **message}).encode()
        with self._lock:
            try:
                self._control.sendall(struct.pack(">I", len(body)) + body)
                first, fds, _, _ = socket.recv_fds(self._control, 1, max(1, descriptors))
                size = struct.unpack(">I", first + self._receive(3))[0] if first else 0
                answer: dict[str, Any] = json.loads(self._receive(size)) if size else {}
            except OSError as error:
                raise GraderError(
                    f"{self._name} does not answer: {error}{self._last_words()}"
                ) from None
            if not first:
                raise GraderError(f"{self._over}{self._last_words()}")
        if "error" in answer:
            raise GraderError(f"{self._name} could not do `{do}`: {answer['error']}")
        if len(fds) < descriptors and "errno" not in answer:
            for fd in fds:
                os.close(fd)
            raise GraderError("too many open files: the sockets did not arrive")
        return answer, fds

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self._control.recv(min(size - len(data), 1 << 20))
            if not more:
                raise OSError("it ended in the middle of an answer")
            data += more
        return bytes(data)

    def _last_words(self) -> str:
        """What is known about its end, for a message: "" or a text in brackets."""
        return ""

    @abstractmethod
    def sockets(self, family: int = 4, count: int = 1) -> list[socket.socket]:
        """Make TCP sockets that live in the machine's network, neither bound nor connected."""

    @abstractmethod
    def spawn(self, name: str, argv: Sequence[str], env: dict[str, str], cwd: str = "/") -> int:
        """Start a program as a service; returns its process id there."""

    @abstractmethod
    def drop_spare(self) -> None:
        """Close what was asked for ahead; a forked process must not share it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the machine."""

    def unix_socket(self, path: str) -> socket.socket:
        """Connect to a unix socket of the machine.

        Raises:
            OSError: as a connect would (refused, no such file).
        """
        answer, fds = self._ask("unix", 1, {"path": path})
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), path)
        return socket.socket(fileno=fds[0])

    def log(self, name: str, stream: str, start: int = 0) -> str:
        """Return what a service printed on `stdout` or `stderr`, from a byte position on."""
        return self.printed(name, stream, start)[0].decode("utf-8", "replace")

    def printed(self, name: str, stream: str, start: int) -> tuple[bytes, int]:
        """Return what a service printed from a byte position on, and the position of the end."""
        answer = self.request("log", name=name, stream=stream, start=start)
        return base64.b64decode(answer["data"]), answer["total"]

    def read(self, path: str, limit: int = 64 * 1024) -> bytes | None:
        """Return the end of a regular file of the machine; None when there is none."""
        data = self.request("read", path=path, limit=limit)["data"]
        return None if data is None else base64.b64decode(data)

    def grown(self, path: str, start: int, limit: int = 64 * 1024) -> tuple[bytes, int]:
        """Return what a file has from a byte position on (at most its end), and its size."""
        answer = self.request("read", path=path, limit=limit)
        if answer["data"] is None:
            return b"", 0
        data, end = base64.b64decode(answer["data"]), answer["end"]
        return data[max(0, len(data) - max(0, end - start)) :], end

    def write(self, *files: File) -> None:
        """Place files in the running machine."""
        self.request("write", files=[one.packed() for one in files])

    def size(self, folder: str) -> tuple[int, int]:
        """Tell how many files lie below a folder of the running machine, and their bytes."""
        told = self.request("size", path=folder)
        return told["files"], told["bytes"]

    def remove(self, path: str) -> None:
        """Remove a file of the running machine, if it is there."""
        self.request("remove", path=path)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link at a path of the running machine."""
        self.request("link", path=path, target=target)
