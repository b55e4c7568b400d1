"""The benchmarks of `align score` by name."""

from __future__ import annotations

from align.benchmarks.mme import MME_SCORER
from align.benchmarks.pope_files import POPE_SCORER
from align.benchmarks.scienceqa import SCIENCEQA_SCORER
from align.benchmarks.sheet import Scorer

SCORERS: dict[str, Scorer] = {scorer.name: scorer for scorer in (POPE_SCORER, MME_SCORER, SCIENCEQA_SCORER)}
