"""Stage `steerlm`: fine-tuning on completions with their scores written into the prompt (section 3.2, "SteerLM").

In: `pairs/steerlm.jsonl` and the text that asks for the best of everything, `pairs/conditioning.json`, which goes on
as `conditioning.txt`: whoever asks the trained model appends it to the last user turn. Run it with
`align steerlm RECIPE`.
"""

from __future__ import annotations

import json

from align.context import Context
from align.train.lora_rows import example_row
from align.train.lora_stage import LoraWork
from annotate.records import Example


def work(context: Context) -> LoraWork:
    examples = context.records("pairs", "steerlm.jsonl", Example)
    conditioning = json.loads(context.path("pairs", "conditioning.json").read_text(encoding="utf-8"))
    root = context.prompts().root
    return LoraWork(
        context,
        stage="steerlm",
        method="sft",
        rows=[example_row(e, root) for e in examples],
        beside={"conditioning.txt": conditioning["text"]},
    )
