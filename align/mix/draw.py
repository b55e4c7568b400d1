"""Which rows are drawn: those with the smallest numbers, each number a hash of the seed, the data set and the row.

So the order and the number of files do not matter, and the rows of a smaller draw are among those of a larger one.
A half more rows than are wanted are remembered, as a few numbers each: memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

_SLACK = 4096
"""So many rows beyond one and a half times the wanted are kept before the largest numbers are thrown away."""


class Place(NamedTuple):
    """Where a row stands: the number of its source, and its bytes in that file."""

    source: int
    start: int
    length: int


class Drawn(NamedTuple):
    """A row of the mix. `copy`: 0 for the first time that it is drawn, 1 for the second, ..."""

    number: int
    place: Place
    copy: int


def number_of(*what: object) -> int:
    """8 bytes of a hash: uniform, and without memory of files and orders."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, what)).encode()).digest()[:8], "big")


class Urn:
    """The rows of one data set with the smallest numbers: of all that are offered the `wanted` first ones."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._limit = 2**64 if wanted else 0
        """Rows with this number or a larger one cannot be drawn any more."""
        self._columns = {name: array("Q") for name in ("number", "tie", "source", "start", "length", "times")}
        self._refused: dict[tuple[int, int], str] = {}

    def offer(self, number: int, line: bytes, place: Place, why_not: Callable[[], str]) -> None:
        """Remember a row that may be drawn. `why_not`: asked only of such a row, a reason to leave it out, or ""."""
        if number >= self._limit:
            return
        # Rows with one number ask and answer the same; which of them is taken must not depend on where they stand.
        tie = int.from_bytes(hashlib.sha256(line).digest()[:8], "big")
        if reason := why_not():
            self._refused[number, tie] = reason
            return
        for column, value in zip(self._columns.values(), (number, tie, *place, 1), strict=True):
            column.append(value)
        if len(self._columns["number"]) >= self.wanted + self.wanted // 2 + _SLACK:
            self._settle()

    def _settle(self) -> None:
        """One row for each number, sorted; no more than are wanted."""
        table = {name: np.frombuffer(column, dtype=np.uint64) for name, column in self._columns.items()}
        order = np.lexsort((table["tie"], table["number"]))
        table = {name: column[order] for name, column in table.items()}
        first = np.unique(table["number"], return_index=True)[1]
        times = np.add.reduceat(table["times"], first) if len(first) else table["times"]
        table = {name: column[first] for name, column in table.items()} | {"times": times}
        self._columns = {name: array("Q", column[: self.wanted].tobytes()) for name, column in table.items()}
        if 0 < self.wanted <= len(first):
            self._limit = self._columns["number"][-1] + 1
            self._refused = {key: reason for key, reason in self._refused.items() if key[0] < self._limit}

    def draw(self, short: Literal["fill", "evenly", "error"], seed: int, dataset: str) -> Iterator[Drawn]:
        """The rows, and where there are too few of them, rows drawn again: a beginning of what more would give."""
        self._settle()
        c = self._columns
        rows = [
            Drawn(number, Place(*place), 0)
            for number, *place in zip(c["number"], c["source"], c["start"], c["length"], strict=True)
        ]
        yield from rows
        missing = self.wanted - len(rows)
        if not rows or short == "error":
            return
        if short == "evenly":
            copy = 0
            while missing > 0:
                copy += 1
                order = sorted(rows, key=lambda row: number_of(seed, dataset, "pass", copy, row.number))
                yield from (row._replace(copy=copy) for row in order[:missing])
                missing -= len(rows)
            return
        copies: Counter[int] = Counter()
        for again in range(missing):
            at = number_of(seed, dataset, "again", again) % len(rows)
            copies[at] += 1
            yield rows[at]._replace(copy=copies[at])

    @property
    def n_rows(self) -> int:
        """Different rows that are drawn; to be asked after the draw, as the others."""
        return len(self._columns["number"])

    @property
    def n_copies(self) -> int:
        """How many more rows asked and answered the same as one that is drawn."""
        return sum(self._columns["times"]) - self.n_rows

    @property
    def refused(self) -> Counter[str]:
        """Rows for which others were drawn, by reason."""
        return Counter(self._refused.values())
