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

Where one kind is to come first (`order`), all its epochs do: the training is cut once, and not at every epoch's middle.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, cycle, islice, pairwise
from typing import Any, Literal

from align.settings import Train
from align.train.lora_rows import TrainRow, items_of
from annotate.errors import UserError

POOL = 32
"""Steps whose rows are sorted by length together: enough for little padding, few enough to differ every epoch."""

FIRST: Mapping[str, bool] = {"language_first": False, "vision_first": True}
"""Whether the rows that come first have images."""


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
        order: Literal["random", "language_first", "vision_first"] = "random",
    ) -> None:
        """`kinds`: of each row, what must not be mixed; `tokens`: their lengths, where like ones belong together.

        Where `order` says which kind comes first, `taken` must say how many steps the whole training has.
        """
        self.kinds, self.tokens = kinds, tokens
        self.size, self.processes, self.seed = size, processes, seed
        self.order = order
        self.epoch = 0
        self.taken: int | None = None

    def __len__(self) -> int:
        return sum(_n_batches(list(self.kinds).count(kind), self.size, self.processes) for kind in set(self.kinds))

    @property
    def repeated(self) -> int:
        """How many rows come twice in an epoch, so that every process has one."""
        of_kind = [list(self.kinds).count(kind) for kind in set(self.kinds)]
        return sum(max(0, _n_batches(n, self.size, self.processes) - n) for n in of_kind)

    @property
    def steps(self) -> int:
        """Of an epoch, one batch for each process."""
        return len(self) // self.processes

    @property
    def border(self) -> int:
        """Steps before the other kind begins: its share of the training is its share of an epoch."""
        assert self.taken is not None
        n = list(self.kinds).count(FIRST[self.order])
        first = _n_batches(n, self.size, self.processes) // self.processes
        return round(self.taken * first / self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        if self.order == "random" or len(set(self.kinds)) == 1:
            steps = iter(self._drawn(self.epoch, sorted(set(self.kinds))))
        else:
            kind = FIRST[self.order]
            training = chain(islice(self._epochs(kind), self.border), self._epochs(not kind))
            steps = islice(training, self.epoch * self.steps, (self.epoch + 1) * self.steps)
        return (batch for step in steps for batch in step)

    def _epochs(self, kind: bool) -> Iterator[list[list[int]]]:
        """The steps of one kind, without end."""
        return chain.from_iterable(self._drawn(epoch, [kind]) for epoch in count())

    def _drawn(self, epoch: int, kinds: Sequence[bool]) -> list[list[list[int]]]:
        """An epoch's steps of these kinds, in random order."""
        draw = random.Random(f"{self.seed}/{epoch}")
        steps: list[list[list[int]]] = []
        for kind in kinds:
            members = [row for row, its in enumerate(self.kinds) if its == kind]
            draw.shuffle(members)
            steps += self._steps(members)
        draw.shuffle(steps)
        return steps

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


def plan_batches(trainer: Any, rows: Sequence[TrainRow], tokens: Sequence[int], settings: Train) -> dict[str, str]:
    """Let the trainer follow a plan of ours where the settings or the machine want one, and say so for the card."""
    items = items_of(rows, by_prompt=settings.batch_by == "prompts")
    with_images = [bool(rows[numbers[0]].images) for numbers in items]
    spread = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    needed = settings.order != "random" or (spread and len(set(with_images)) == 2)
    apart = settings.batches == "unimodal" or (settings.batches == "auto" and needed)
    if not apart and not settings.group_by_length:
        return {}
    if trainer.args.dataloader_drop_last:
        raise UserError("trl.dataloader_drop_last: batches of one kind or of like length leave no row out; delete it")
    plan = Batches(
        kinds=with_images if apart else [True] * len(items),
        tokens=tokens if settings.group_by_length else None,
        size=trainer.args.per_device_train_batch_size,
        processes=trainer.accelerator.num_processes,
        seed=trainer.args.seed,
        order=settings.order,
    )
    plan.taken = _steps_taken(trainer.args, plan.steps)
    trainer.follow(plan)
    told = ["of rows with images or of text alone"] * apart + ["of rows of like length"] * settings.group_by_length
    told += {"random": [], "language_first": ["text first"], "vision_first": ["images first"]}[settings.order]
    again = f"; {plan.repeated} row(s) come twice in an epoch, so that every process has one" if plan.repeated else ""
    return {"batches": ", ".join(told) + again}


def _steps_taken(args: Any, steps: int) -> int:
    """Batches of one process in the whole training, as transformers counts it; `steps`: of an epoch."""
    at_once = args.gradient_accumulation_steps
    updates = -(-steps // at_once)
    total = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates)
    epochs, rest = divmod(total, updates)
    return int(epochs * steps + min(rest * at_once, steps))
