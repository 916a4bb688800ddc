"""Which `server` block of an Nginx file a request meets.

Only for cards: where there are several, the likely line is one of that block. Verdicts never depend
on it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

Directive = dict[str, Any]  # as crossplane tells: "directive", "line", "args", and "block" if any


def other_blocks(text: str, host: str, port: int, family: int) -> set[int]:
    """The lines of all `server` blocks but the one that a request meets.

    Args:
        text: the file.
        host: the name asked for, without a port.
        port: 80 or 443.
        family: 4 or 6, the version of IP.

    Returns:
        Numbers of lines; none where no block listens.
        See https://nginx.org/en/docs/http/request_processing.html.
    """
    blocks = [one["block"] for one in parsed(text) if one["directive"] == "server"]
    there = [one for one in blocks if listening(one, port, family)]
    named = [one for one in there if is_for(one, host)]
    default = [one for one in there if "default_server" in listening(one, port, family)]
    met = next(iter([*named, *default, *there]), None)
    if met is None:
        return set()
    return {line for one in blocks if one is not met for line in lines_of(one)}


def parsed(text: str) -> list[Directive]:
    """The directives of a file, those in no block; as far as it can be read."""
    import crossplane  # slow to import, and few cards need it

    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text)
        file.flush()
        told = crossplane.parse(file.name, single=True, check_ctx=False, check_args=False)
    found: list[Directive] = told["config"][0]["parsed"]
    return found


def values(block: list[Directive], name: str) -> list[list[str]]:
    """The arguments of each directive of this name."""
    return [one["args"] for one in block if one["directive"] == name]


def listening(block: list[Directive], port: int, family: int) -> list[str]:
    """The arguments of the `listen` line for a port and a version of IP; none if there is none."""
    for words in filter(None, values(block, "listen") or [["80"]]):
        address, _, last = words[0].rpartition(":")
        if not last.isdigit():  # an address alone
            address, last = words[0], "80"
        both = "ipv6only=off" in words
        if last == str(port) and (both or address.startswith("[") == (family == 6)):
            return list(words)
    return []


def is_for(block: list[Directive], host: str) -> bool:
    """Tell whether the block names a host, with or without a wildcard."""
    names = [name for words in values(block, "server_name") for name in words]
    return any(host == one or (one[:1] in "*." and host.endswith(one.strip("*"))) for one in names)


def lines_of(block: list[Directive]) -> Iterator[int]:
    """The numbers of the lines on which directives begin, in their order."""
    for one in block:
        yield one["line"]
        yield from lines_of(one.get("block", []))
