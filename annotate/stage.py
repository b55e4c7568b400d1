"""What a stage is to the runner: units planned from the whole input, executed in any order, compiled in plan order.

    plan     `Work.units`       ordered keys, each a hash of everything that decides that unit's result
    execute  `Work.execute`     does the missing ones; calls `done(key, line)` once per unit; may be killed anywhere
    compile  `Work.compile`     from all lines, in plan order, the files of the stage; a pure function

The runner owns files, journal, progress, resume and accounting. Because a key hashes everything that matters, a line in
an old journal is good whenever its key is asked for again: nothing is done, or paid for, twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from annotate.records import Record

Line = Mapping[str, Any]
Done = Callable[[str, Line], None]


@dataclass(frozen=True)
class Unit:
    """The smallest thing that is done whole: one request, one batch of prompts, one training run."""

    key: str
    payload: Any
    """What `execute` needs; never written anywhere."""
    records: int = 1
    """How many records the unit stands for, for the progress bar."""


class Progress(Protocol):
    """Where a stage tells how far it is inside a unit (training steps) or what it costs."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The stage's files and its account: `outputs + failures == units`, asserted by the runner.

    `files` maps a name to what it holds: an iterable of records or JSON objects (`*.jsonl`), a JSON value (`*.json`),
    text, or the path of a finished file or folder below the workspace, which is copied.
    """

    files: Mapping[str, Iterable[Record | Mapping[str, Any]] | Mapping[str, Any] | str | Path]
    units: int
    outputs: int
    failures: int
    funnel: Mapping[str, int] = field(default_factory=dict)
    cost_usd: float = 0.0
    told: str = ""
    """A few lines for the reader at the terminal; what the files say at length."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a training will put through its language model, before a weight is read."""

    rows: int
    with_images: int
    left_out: Mapping[str, int]
    """Rows that cannot be trained on, by reason."""
    lm_tokens: int
    """Of the rows once: images, prompts and answers."""
    image_tokens: int
    trained_tokens: int
    """Of these, the ones that carry the loss."""
    passes: float
    """How often the rows are gone through."""
    flops: int
    """Floating-point operations of one pass."""
    basis: str
    """What counted, and with which formula."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the missing units would take, before any is spent."""

    calls: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    thought_tokens: int = 0
    image_tokens: int = 0
    """Of the input tokens, those of images, by rule of thumb."""
    usd: float | None = 0.0
    """None: no price is known for this model."""
    usd_batch: float | None = None
    """The same as a batch job, where the annotator is not one already."""
    minutes: float = 0.0
    """At the declared limits; 0 where there are none."""
    days: int = 0
    """Under a declared daily limit; 0 where there is none."""
    requests_per_day: int = 0
    """That limit, of all lanes together."""
    paid: bool = False
    basis: str = ""
    """What the tokens were guessed from."""
    prices_as_of: str = ""
    reading: Reading | None = None
    """Of a training whose tokens are counted."""


class Work(Protocol):
    """One stage, ready to run."""

    @property
    def units(self) -> Sequence[Unit]: ...

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        """Do `pending`, in any order. `workspace` is a folder of the stage's own that survives a kill."""
        ...

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled: ...

    def estimate(self, pending: Sequence[Unit]) -> Estimate: ...
