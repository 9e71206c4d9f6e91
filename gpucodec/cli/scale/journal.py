# SPDX-License-Identifier: Apache-2.0
"""Which units are done: what a run that was stopped tells the next.

Beside the store, under a hidden name, lie ``plan.json``, which says what is made from what, and
``done/*.json``, each of which lists units that were verified after writing. What is in no list is
looked at again, so losing some of them, or all, costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from ...checkpoint.storage import connect
from .units import Outcome

if TYPE_CHECKING:
    from .units import Unit

PLAN: Final = "plan.json"
DONE: Final = "done/"
SECONDS: Final = 5.0  # between two lists
_Counts = tuple[int, int, int, int]


def beside(url: str) -> str:
    """Where the journal of a store lies."""
    folder, slash, name = url.rstrip("/").rpartition("/")
    return f"{folder}{slash}.{name}.recompress"


class Journal:
    """Of one store.

    Attributes
    ----------
    plan
        What `begin` wrote, in this run or another; None if there is no journal.

    """

    def __init__(self, url: str) -> None:
        self.url = beside(url)
        self._files = connect(self.url)
        self._done: dict[str, dict[int, _Counts]] = defaultdict(dict)
        self._new: dict[str, dict[int, _Counts]] = defaultdict(dict)
        self._last = time.monotonic()
        try:
            self.plan: Any = json.loads(self._files.get(PLAN))
        except FileNotFoundError:
            self.plan = None
        else:
            self._load()

    def _load(self) -> None:
        for key in list(self._files.list(DONE)):
            with contextlib.suppress(
                ValueError, FileNotFoundError
            ):  # cut: its units are done again
                for path, units in json.loads(self._files.get(key)).items():
                    self._done[path] |= {int(n): tuple(counts) for n, counts in units.items()}

    def clear(self) -> None:
        """Forget everything."""
        for key in list(self._files.list("")):
            self._files.delete(key)
        self._done.clear()
        self.plan = None

    def begin(self, plan: dict[str, Any]) -> None:
        """Write down what is made from what."""
        self.plan = plan
        self._files.put(PLAN, json.dumps(plan, indent=1).encode())
        self._files.flush()

    def has(self, path: str) -> bool:
        """Whether any unit of an array is done."""
        return bool(self._done.get(path))

    def recall(self, unit: Unit) -> Outcome | None:
        """What became of a unit in an earlier run, or None if it is not done."""
        counts = self._done.get(unit.path, {}).get(unit.number)
        if counts is None:
            return None
        stored, decoded, before, after = counts
        return Outcome(
            skipped=len(unit.keys()),
            stored=stored,
            decoded_bytes=decoded,
            source_bytes=before,
            target_bytes=after,
        )

    def note(self, unit: Unit, found: Outcome) -> None:
        """A unit is done; written down with others, every few seconds."""
        counts = found.stored, found.decoded_bytes, found.source_bytes, found.target_bytes
        self._new[unit.path][unit.number] = counts
        if time.monotonic() - self._last > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write down what is new."""
        if self._new:
            name = f"{DONE}{time.time_ns():020}-{secrets.token_hex(4)}.json"
            self._files.put(name, json.dumps(self._new).encode())
            self._files.flush()
            self._new.clear()
        self._last = time.monotonic()
