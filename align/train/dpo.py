"""Stage `dpo`: direct preference optimization on the pairs (Multi-Modal Preference Alignment, section 3.2).

In: `pairs/preference.jsonl`, and what the reference said in `sample/logprobs.jsonl`, where the sampler has kept it.
Out: see `align.train.lora_stage`. Run it with `align dpo RECIPE`.
"""

from __future__ import annotations

from align.context import Context
from align.train.lora_rows import preference_row
from align.train.lora_stage import LoraWork
from align.train.sampled import read_sampled
from annotate.records import PreferencePair


def work(context: Context) -> LoraWork:
    pairs = context.records("pairs", "preference.jsonl", PreferencePair)
    root = context.prompts().root
    sampled = None
    if context.recipe.sample is not None and context.recipe.sample.logprobs:
        path = context.path("sample", "logprobs.jsonl")
        sampled = read_sampled(path, pairs, model_sha256=context.model_sha256)
    rows = [preference_row(pair, root) for pair in pairs]
    return LoraWork(context, stage="dpo", method="dpo", rows=rows, sampled=sampled)
