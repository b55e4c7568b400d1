"""The benchmarks of `align score` by name."""

from __future__ import annotations

from align.benchmarks.ai2d import AI2D_SCORER
from align.benchmarks.alpaca_eval_files import ALPACA_EVAL_SCORER
from align.benchmarks.captions import COCO_SCORER, FLICKR30K_SCORER
from align.benchmarks.gqa import GQA_SCORER
from align.benchmarks.gsm8k import GSM8K_SCORER
from align.benchmarks.llava_bench_files import LLAVA_BENCH_SCORER
from align.benchmarks.mm_vet_files import MM_VET_SCORER
from align.benchmarks.mmbench import MMBENCH_SCORER
from align.benchmarks.mme import MME_SCORER
from align.benchmarks.mt_bench_files import MT_BENCH_SCORER
from align.benchmarks.pope_files import POPE_SCORER
from align.benchmarks.realworldqa import REALWORLDQA_SCORER
from align.benchmarks.scienceqa import SCIENCEQA_SCORER
from align.benchmarks.sheet import Scorer
from align.benchmarks.unicorn import OODCV_SCORER, SKETCHY_SCORER

_ALL = (
    AI2D_SCORER,
    GQA_SCORER,
    OODCV_SCORER,
    REALWORLDQA_SCORER,
    SKETCHY_SCORER,
    COCO_SCORER,
    FLICKR30K_SCORER,
    GSM8K_SCORER,
    MMBENCH_SCORER,
    ALPACA_EVAL_SCORER,
    LLAVA_BENCH_SCORER,
    MM_VET_SCORER,
    MME_SCORER,
    MT_BENCH_SCORER,
    POPE_SCORER,
    SCIENCEQA_SCORER,
)
SCORERS: dict[str, Scorer] = {scorer.name: scorer for scorer in _ALL}
