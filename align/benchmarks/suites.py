"""All benchmarks by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from align.benchmarks.choice import CHOICE
from align.benchmarks.instructions import TEXT_INSTRUCTIONS, TEXT_NOISY_IMAGE
from align.benchmarks.open_visual import OPEN_VISUAL
from align.benchmarks.pope import POPE, POPE_BLANK
from align.benchmarks.suite import Suite
from annotate.errors import UserError

SUITES = {suite.name: suite for suite in (TEXT_INSTRUCTIONS, TEXT_NOISY_IMAGE, OPEN_VISUAL, POPE, POPE_BLANK, CHOICE)}


def find_suites(names: Iterable[str]) -> list[Suite]:
    """The suites of these names, in this order. Raises `UserError` naming every unknown one."""
    names = list(names)
    faults = []
    for name in names:
        if name not in SUITES:
            near = difflib.get_close_matches(name, SUITES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            faults.append(f"evaluate.suites: no suite {name!r}{hint}  Known: {', '.join(SUITES)}")
    if faults:
        raise UserError(*faults)
    return [SUITES[name] for name in names]
