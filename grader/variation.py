"""What differs from one grading to the next: drawn from a seed, which can be given again.

A learner cannot know beforehand which names, sizes and addresses will be asked about, so only a
site that does what was meant passes each time. The card shows the seed; with the same one the same
things are asked.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
from collections.abc import Iterator
from functools import cache

from grader.errors import Mismatch
from grader.text import COURSE

VARIABLE = "COURSE_SEED"
WORDS = (
    *("acorn", "anchor", "badger", "basket", "beacon", "bramble", "cellar", "cobalt", "comet"),
    *("copper", "cricket", "dahlia", "ember", "falcon", "fennel", "garnet", "ginger", "harbor"),
    *("hazel", "indigo", "jasper", "juniper", "kettle", "lantern", "linden", "marble", "meadow"),
    *("nettle", "orchard", "pebble", "plover", "quartz", "raven", "saffron", "tulip", "walnut"),
)


@cache
def seed() -> str:
    """This run's seed: the one that was given, or a new one."""
    return os.environ.get(VARIABLE) or secrets.token_hex(3)


class Draw(random.Random):
    """Draws what one check asks about. Which other checks run makes no difference.

    Args:
        check: the check's name.
    """

    def __init__(self, check: str) -> None:
        super().__init__(f"{seed()} {check}")

    def word(self) -> str:
        """A name that nobody has chosen: a word and four digits."""
        return f"{self.choice(WORDS)}-{self.randrange(1000, 10000)}"

    def fingerprint(self, begin: str = "") -> str:
        """Eight hex digits that begin so, as in the name of a file that never changes."""
        return (begin + f"{self.getrandbits(32):08x}")[:8]

    def text(self, size: int) -> bytes:
        """So many bytes of words, as text that compresses."""
        made = " ".join(self.choices(WORDS, k=size // 5 + 1))
        return made.encode()[:size]

    def address(self, family: int = 4) -> str:
        """A visitor's address."""
        if family == 6:
            return f"2001:db8::{self.randrange(0x100, 0x1000):x}"
        return f"203.0.113.{self.randrange(140, 240)}"


@contextlib.contextmanager
def drawn(lab: str, check: str) -> Iterator[Draw]:
    """Draw for one check; a mismatch in the block says with which seed it can be seen again."""
    try:
        yield Draw(check)
    except Mismatch as error:
        note = (
            f"Drawn with the seed {seed()}; files of such names were placed for this check alone. "
            f"The same again: {COURSE} check {lab} --seed {seed()}"
        )
        raise Mismatch(
            error.expected, error.got, f"{error.note}\n{note}".strip(), error.look_at
        ) from None
