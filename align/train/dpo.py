"""Stage `dpo`: direct preference optimization on the pairs (Multi-Modal Preference Alignment, section 3.2).

In: `pairs/preference.jsonl`. Out: see `align.train.lora_stage`. Run it with `align dpo RECIPE`.
"""

from __future__ import annotations

from align.context import Context
from align.train.lora_rows import preference_row
from align.train.lora_stage import LoraWork
from annotate.records import PreferencePair


def work(context: Context) -> LoraWork:
    pairs = context.records("pairs", "preference.jsonl", PreferencePair)
    root = context.prompts().root
    return LoraWork(context, stage="dpo", method="dpo", rows=[preference_row(pair, root) for pair in pairs])
