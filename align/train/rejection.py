"""Stage `rejection`: fine-tuning on the best completion of each prompt (section 3.2, "rejection sampling").

In: `pairs/rejection.jsonl`. Out: see `align.train.lora_stage`. Run it with `align rejection RECIPE`.
"""

from __future__ import annotations

from align.context import Context
from align.train.lora_rows import example_row
from align.train.lora_stage import LoraWork
from annotate.records import Example


def work(context: Context) -> LoraWork:
    examples = context.records("pairs", "rejection.jsonl", Example)
    root = context.prompts().root
    return LoraWork(context, stage="rejection", method="sft", rows=[example_row(e, root) for e in examples])
