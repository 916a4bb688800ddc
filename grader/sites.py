"""The sites of one lab during a grading: who starts them when, and who ends them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from grader.errors import GraderError, StartFailed
from grader.lab import Lab, read_submission
from grader.machine import File
from grader.site import Site

# Sites whose app was started before pytest was, by their lab's folder (`course watch` does this).
STARTED: dict[Path, Site] = {}
# More sites that start at once than there are cores would only all be late.
TURNS = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))


class Sites:
    """The boxes of one lab: a shared one, and those that single checks ask for."""

    in_turn = False  # whether there is one site for all, so that no check may run beside another
    nowhere = False  # whether this machine cannot have any

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.shared: Site | None = None
        self.open: list[Site] = []
        self.placed: list[File] = []  # of the last site
        self._begun = STARTED.pop(folder, None)
        self._over = False
        self.failed: StartFailed | None = None
        self._lock = threading.Lock()
        self._early: threading.Thread | None = None
        self._error: Exception | None = None

    def files(self) -> list[File]:
        """The learner's files, as they are now."""
        return read_submission(self.lab, self.folder)

    def make(self, *, start: bool = True, **options: Any) -> Site:
        """Start a site in a box of its own; options as for Site."""
        with TURNS:
            self.placed = self.files()
            site = Site(self.lab, self.placed, start=False, **options)
            self._keep(site)
            if start:
                site.start()
        return site

    def _keep(self, site: Site) -> None:
        """Remember a site, to close it; after the end of the session, close it at once."""
        with self._lock:
            if not self._over:
                self.open.append(site)
                return
        site.close()
        raise GraderError("the session is over")

    def start_early(self) -> None:
        """Begin to start the shared site, while pytest and the checks get ready."""
        self._early = threading.Thread(target=self._make_shared, daemon=True)
        self._early.start()

    def _make_shared(self) -> None:
        self._error = None
        begun, self._begun = self._begun, None
        try:
            if begun:
                self._keep(begun)
                self.placed = begun.files
                begun.start()
            self.shared = begun or self.make()
        except StartFailed as failed:
            self.failed = failed
        except Exception as error:
            self._error = error

    def common(self) -> Site:
        """The site that all checks without a box of their own share."""
        if self._early:
            self._early.join()
            self._early = None
        elif self.shared is None and self.failed is None:
            self._make_shared()
        if self.shared is None:
            raise self.failed or self._error or GraderError("the site was not started")
        return self.shared

    def close(self, sites: list[Site] | None = None) -> None:
        """End some boxes, or all."""
        with self._lock:
            self._over = self._over or sites is None
            closing = self.open if sites is None else sites
            self.open = [one for one in self.open if one not in closing]
        for site in closing:
            site.close()
