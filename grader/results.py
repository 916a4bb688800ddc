"""The result of one grading: a verdict for each check, and the sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from grader.text import clean

if TYPE_CHECKING:
    from grader.client import Exchange

VERDICTS = ("passed", "failed", "blocked", "inconclusive")
KEPT = 64 << 10  # bytes of an exchange that a result holds, each way
MOST = 1 << 20  # bytes of all exchanges of a check that it holds


@dataclass
class Result:
    """What came of one check.

    Attributes:
        lab: its number.
        check: its name.
        title: its title.
        verdict: passed, failed, blocked or inconclusive.
        points: earned.
        of: what it is worth.
        card: the text shown; one line for a check that passed.
        seconds: how long it took.
        exchanges: what its visitors sent and received, each as of `plain_exchange`; empty when
            nobody asked for results.
    """

    lab: str
    check: str
    title: str
    verdict: str
    points: int
    of: int
    card: str
    seconds: float
    exchanges: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def count(results: list[Result], verdict: str) -> int:
    """How many checks came out like this."""
    return sum(one.verdict == verdict for one in results)


def plain_exchanges(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """Exchanges of one check as plain data, with as much of their bytes as `KEPT` and `MOST` let.

    Where a check has more than `MOST` bytes, the longest are shortened, all to the same length.
    """
    sizes = [len(way) for one in exchanges for way in (one.sent, one.received)]
    kept = KEPT
    while sum(min(size, kept) for size in sizes) > MOST:
        kept //= 2
    return [plain_exchange(one, kept) for one in exchanges]


def plain_exchange(exchange: Exchange, kept: int = KEPT) -> dict[str, Any]:
    r"""An exchange as plain data that is safe to show.

    A byte is shown as the character of Latin-1 that it stands for, and as an escape such as `\x1b`
    when that does not print.

    Args:
        exchange: as it was recorded.
        kept: the bytes of each direction that are kept.
    """
    sent, received = bytes(exchange.sent[:kept]), bytes(exchange.received[:kept])
    return {
        "method": clean(exchange.method),
        "url": clean(exchange.url),
        "target": clean(exchange.target),
        "source": clean(exchange.source),
        "sent": clean(sent.decode("latin-1"), kept),
        "sent_left_out": max(exchange.sent_size, len(exchange.sent)) - len(sent),
        "received": clean(received.decode("latin-1"), kept),
        "received_left_out": max(exchange.size, len(exchange.received)) - len(received),
        "error": clean(exchange.error),
        "seconds": round(exchange.seconds, 4),
    }
