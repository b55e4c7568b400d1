"""Which rows make a batch: of one kind, of like length, in an order that a seed decides and a kill does not change.

    plan = Batches(kinds=[True, True, False, …], tokens=[640, 652, 31, …], size=8, processes=2, seed=0)
    plan.epoch = 1
    list(plan) -> [[7, 1, …], [0, 12, …], [3, 40, …], …]

Every `processes` batches in a row are one step's, one for each process, and of one kind: all of rows with images or all
of text. Where a model is spread over processes (FSDP, ZeRO-3) one that runs the vision tower would otherwise wait for
ever for one that has no image to show it.

Of n rows of a kind the fewest steps are made that hold them, and their batches are as alike in size as can be: 9 rows
by 8 are 5 + 4, not 8 + 1, whose last row would count as much as eight others. So no row is left out and none comes
twice, but where a kind has fewer rows than one step's batches need (one each): then its first ones come again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice, pairwise

POOL = 32
"""Steps whose rows are sorted by length together: enough for little padding, few enough to differ every epoch."""


class Batches:
    """Numbers of rows, batch by batch, for the epoch that is set; what torch's DataLoader calls a batch sampler."""

    def __init__(
        self,
        *,
        kinds: Sequence[bool],
        tokens: Sequence[int] | None = None,
        size: int,
        processes: int = 1,
        seed: int,
    ) -> None:
        """`kinds`: of each row, what must not be mixed; `tokens`: their lengths, where like ones belong together."""
        self.kinds, self.tokens = kinds, tokens
        self.size, self.processes, self.seed = size, processes, seed
        self.epoch = 0

    def __len__(self) -> int:
        return sum(_n_batches(list(self.kinds).count(kind), self.size, self.processes) for kind in set(self.kinds))

    @property
    def repeated(self) -> int:
        """How many rows come twice in an epoch, so that every process has one."""
        of_kind = [list(self.kinds).count(kind) for kind in set(self.kinds)]
        return sum(max(0, _n_batches(n, self.size, self.processes) - n) for n in of_kind)

    def __iter__(self) -> Iterator[list[int]]:
        draw = random.Random(f"{self.seed}/{self.epoch}")
        steps: list[list[list[int]]] = []
        for kind in sorted(set(self.kinds)):
            members = [row for row, its in enumerate(self.kinds) if its == kind]
            draw.shuffle(members)
            steps += self._steps(members)
        draw.shuffle(steps)
        return (batch for step in steps for batch in step)

    def _steps(self, members: Sequence[int]) -> list[list[list[int]]]:
        """The rows of one kind, in their drawn order, as steps of one batch per process."""
        n = _n_batches(len(members), self.size, self.processes)
        rows = list(islice(cycle(members), max(n, len(members))))
        bounds = [i * len(rows) // n for i in range(n + 1)]
        if self.tokens is not None:
            for first in range(0, n, POOL * self.processes):
                pool = slice(bounds[first], bounds[min(n, first + POOL * self.processes)])
                rows[pool] = sorted(rows[pool], key=self.tokens.__getitem__)
        batches = [rows[start:end] for start, end in pairwise(bounds)]
        return [batches[i : i + self.processes] for i in range(0, n, self.processes)]


def _n_batches(rows: int, size: int, processes: int) -> int:
    """Batches of as few steps as hold the rows: a multiple of the processes."""
    return -(-rows // (size * processes)) * processes
