"""The numbers of a table. A number that does not say of which run it is, of how many questions, or within which bounds
is none: it cannot be made, neither here nor from the JSON that pages are drawn of.

    Number(run="sbt-llama2-ft", sha256="9b1c…", model="vlm", value=65.4, low=64.6, high=66.2, n=19_000, n_failed=3)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Number:
    """What a cell prints, with all that says where it is from."""

    run: str
    """Name of the run's folder, or of the file."""
    sha256: str
    """Identity of the evaluation, or of the file's bytes."""
    model: str
    value: float
    low: float
    high: float
    n: int
    """Questions with a score; rows of a count."""
    n_failed: int = 0
    exact: bool = False
    """A count, not a sample: its bounds are the number itself."""

    def __post_init__(self) -> None:
        lacking = [name for name in ("run", "sha256", "model") if not getattr(self, name)]
        lacking += [name for name in ("value", "low", "high") if not _is_finite(getattr(self, name))]
        if not isinstance(self.n, int) or self.n < 1:
            lacking.append("n")
        if lacking:
            raise ValueError(f"a number without {', '.join(lacking)} is not printed")
        slack = 1e-9 * max(1.0, abs(self.value))
        if not self.low - slack <= self.value <= self.high + slack:
            raise ValueError(f"{self.value} lies outside of its bounds, {self.low} to {self.high}")
        if self.exact != (self.low == self.high):
            raise ValueError("a sample has bounds with a width, a count has none")


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A number minus that of another row; paired where both answered the same questions."""

    to: str
    """The other row."""
    mean: float
    low: float
    high: float
    n: int
    p: float | None
    paired: bool

    def __post_init__(self) -> None:
        if not self.to or not all(map(_is_finite, (self.mean, self.low, self.high))) or self.n < 1:
            raise ValueError("a difference without the row it is to, bounds or n is not printed")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a table: a number, or a dash and why there is none."""

    number: Number | None = None
    why: str = ""
    delta: Delta | None = None
    why_no_delta: str = ""
    drop: Delta | None = None
    """The change from another column of the same row, in per cent of it."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number_of(found: Mapping[str, Any]) -> Number:
    """From JSON. Raises ValueError where anything that a number needs is missing."""
    return Number(**_given(Number, found))


def delta_of(found: Mapping[str, Any]) -> Delta:
    """From JSON, as `number_of`."""
    return Delta(**_given(Delta, found))


def _given(kind: type[Number] | type[Delta], found: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"a number without {', '.join(missing)} is not printed")
    return {name: found[name] for name in names}
