"""All benchmarks by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import replace

from align.benchmarks.ai2d import AI2D
from align.benchmarks.alpaca_eval_questions import ALPACA_EVAL
from align.benchmarks.captions import COCO_CAPTIONS, FLICKR30K
from align.benchmarks.choice import CHOICE
from align.benchmarks.corruptions import GRID, Corruption
from align.benchmarks.gqa import GQA
from align.benchmarks.instructions import TEXT_INSTRUCTIONS, TEXT_NOISY_IMAGE
from align.benchmarks.llava_bench_questions import LLAVA_BENCH
from align.benchmarks.mm_vet_questions import MM_VET
from align.benchmarks.mmbench import MMBENCH
from align.benchmarks.mme import MME
from align.benchmarks.mt_bench_questions import MT_BENCH, NOISY
from align.benchmarks.open_visual import OPEN_VISUAL
from align.benchmarks.pope import POPE, POPE_BLANK
from align.benchmarks.realworldqa import REALWORLDQA, REALWORLDQA_RETEMPLATED
from align.benchmarks.scienceqa import SCIENCEQA, SCIENCEQA_IMG
from align.benchmarks.suite import Suite
from align.benchmarks.unicorn import OODCV_VQA, SKETCHY_VQA
from annotate.errors import UserError

SUITES = {
    suite.name: suite
    for suite in (
        TEXT_INSTRUCTIONS,
        TEXT_NOISY_IMAGE,
        OPEN_VISUAL,
        POPE,
        POPE_BLANK,
        CHOICE,
        COCO_CAPTIONS,
        FLICKR30K,
        MME,
        MMBENCH,
        SCIENCEQA,
        SCIENCEQA_IMG,
        AI2D,
        GQA,
        REALWORLDQA,
        REALWORLDQA_RETEMPLATED,
        OODCV_VQA,
        SKETCHY_VQA,
        MT_BENCH,
        *NOISY,
        ALPACA_EVAL,
        MM_VET,
        LLAVA_BENCH,
    )
}


GRID_NAME = "grid"
_DEMONSTRATIONS = re.compile(r"([1-9]\d?)_demonstrations")


def find_suites(names: Iterable[str]) -> list[Suite]:
    """The suites of these names, in this order. Raises `UserError` naming every unknown one."""
    found: dict[str, Suite] = {}
    faults: list[str] = []
    for name in names:
        try:
            found |= {suite.name: suite for suite in suites_of(name)}
        except UserError as error:
            faults += [f"evaluate.suites: {fault}" for fault in error.faults]
    if faults:
        raise UserError(*faults)
    return list(found.values())


def suites_of(name: str) -> list[Suite]:
    """`pope`; `pope+gaussian_noise_3`, the same about corrupted images; `pope+grid`, both of all in the paper.

    `mme+3_demonstrations`: three questions and answers as text before each (Sight Beyond Text, its evaluation code).
    """
    clean, plus, how = name.partition("+")
    if clean not in SUITES:
        near = difflib.get_close_matches(clean, SUITES, n=1)
        hint = f"; did you mean {near[0] + plus + how!r}?" if near else ""
        raise UserError(f"no suite {name!r}{hint}  Known: {', '.join(SUITES)}")
    suite = SUITES[clean]
    if not plus:
        return [suite]
    if demonstrated := _DEMONSTRATIONS.fullmatch(how):
        if suite.images != "own" or suite.turns != 1 or suite.judged:
            raise UserError(f"{name!r}: demonstrations are for single questions about an image, with a known answer")
        return [replace(suite, name=name, demonstrations=int(demonstrated.group(1)))]
    if suite.images != "own":
        raise UserError(f"{name!r}: {clean} shows no images of its own that could be corrupted")
    chosen = GRID if how == GRID_NAME else [Corruption.of(how)]
    corrupted = [replace(suite, name=f"{clean}+{one}", corruption=one) for one in chosen]
    return [suite, *corrupted] if how == GRID_NAME else corrupted
