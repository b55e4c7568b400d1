"""The points of a sweep, from the block `sweep:` of a recipe.

    sweep: {dpo.trl.beta: [0.1, 0.2], pairs.flip: [0, 0.5], evaluate.folder: data/demo/bench/dev, select: open_visual}

    ->  Sweep(axes={"dpo.trl.beta": [0.1, 0.2], "pairs.flip": [0, 0.5]}, fixed={"evaluate.folder": "data/…"},
              select="open_visual")
    ->  Point("beta-0.1_flip-0"), Point("beta-0.1_flip-0.5"), Point("beta-0.2_flip-0"), Point("beta-0.2_flip-0.5")

A list is an axis, anything else a change for all points; `select` names the suite that the best point is told by. The
grid is full unless each axis is to be varied alone. `pairs.fraction: 0` is the untouched model: such a point trains
nothing on the pairs (the left end of Figure 2 of Multi-Modal Preference Alignment).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from annotate.records import sha256_of

SELECT = "select"
FRACTION = "pairs.fraction"
FED_BY_PAIRS = ("pairs", "dpo", "steerlm", "rejection")
"""The blocks that are without work where no pair is used."""
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The block, taken apart."""

    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Dotted key of the recipe -> its values."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What every point has in common and the recipe has not."""
    select: str | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of the sweep. `values`: key -> value of the axes that make it."""

    name: str
    values: Mapping[str, Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def untouched(self) -> bool:
        """Whether nothing is trained on the pairs."""
        fraction = {**self.fixed, **self.values}.get(FRACTION)
        return type(fraction) in (int, float) and fraction == 0

    @property
    def changes(self) -> dict[str, Any]:
        """What it changes in the recipe; a block set to None is left out of it."""
        changes = {**self.fixed, **self.values}
        if not self.untouched:
            return changes
        kept = {key: value for key, value in changes.items() if key.split(".")[0] not in FED_BY_PAIRS}
        return kept | dict.fromkeys(FED_BY_PAIRS)


def read_sweep(block: Mapping[str, Any]) -> Sweep:
    """Take the block apart; inner blocks (`dpo: {trl: {beta: [...]}}`) are dotted keys as well."""
    flat = dict(_flat(block, ""))
    select = flat.pop(SELECT, None)
    axes = {key: tuple(value) for key, value in flat.items() if isinstance(value, list | tuple)}
    return Sweep(axes=axes, fixed={k: v for k, v in flat.items() if k not in axes}, select=select)


def _flat(block: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in block.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def sweep_faults(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """What is wrong with the block as such: (key below `sweep`, what)."""
    if sweep.select is not None and not isinstance(sweep.select, str):
        yield SELECT, "name one suite, by whose headline the best point is told"
    if not sweep.axes:
        yield "", "has no axis; write a key of the recipe with the list of its values, e.g. dpo.trl.beta: [0.1, 0.2]"
    for key, values in sweep.axes.items():
        texts = [json.dumps(value, sort_keys=True) for value in values]
        if not values:
            yield key, "has no value; write a list of them"
        elif len(set(texts)) != len(texts):
            yield key, "holds a value twice"
    for key in (*sweep.axes, *sweep.fixed):
        if key.split(".")[0] in ("name", "runs", "sweep", "report", "rounds"):
            yield key, "cannot be swept: each point is a run of its own below the recipe's"


def points(sweep: Sweep, *, one_by_one: bool = False) -> list[Point]:
    """All points: the full grid, the last axis fastest; or each axis alone, the others as in the recipe."""
    if one_by_one:
        combined = [{key: value} for key, values in sweep.axes.items() for value in values]
    else:
        combined = [dict(zip(sweep.axes, values, strict=True)) for values in product(*sweep.axes.values())]
    names = [_name(values, list(sweep.axes)) for values in combined]
    return [
        Point(
            name=name if names.count(name) == 1 and len(name) <= _LONGEST_NAME else _hashed(name, values),
            values=values,
            fixed=sweep.fixed,
        )
        for name, values in zip(names, combined, strict=True)
    ]


def short_key(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, or all of it where another key ends alike."""
    last = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def shown(value: Any) -> str:
    """A value as it stands in tables: `0.1`, `sigmoid_norm`, `[sigmoid, sft]`."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _name(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    """A folder's name: `beta-0.1_flip-0`."""
    parts = [f"{short_key(key, keys)}-{shown(value)}" for key, value in values.items()]
    return "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts)


def _hashed(name: str, values: Mapping[str, Any]) -> str:
    """The name of a point whose values are too long to tell, or not told apart by letters and digits."""
    return f"{name[: _LONGEST_NAME - 9].rstrip('-_.')}-{sha256_of(dict(values))[:8]}"
