"""Stage `sft`: plain fine-tuning on the annotator's own answers, the baseline of Table 2.

In: `teach/completions.jsonl` and the prompts. Out: see `align.train.lora_stage`. Run it with `align sft RECIPE`.
"""

from __future__ import annotations

from align.context import Context
from align.pairs.sft import build_teacher_examples
from align.train.lora_rows import example_row
from align.train.lora_stage import LoraWork
from annotate.records import Completion, Example


def work(context: Context) -> LoraWork:
    prompts = context.prompts()
    answers = context.records("teach", "completions.jsonl", Completion)
    built = build_teacher_examples(prompts.prompts, answers)
    # Prompts without an answer are accounted for in teach/failures.jsonl already.
    rows = [example_row(made, prompts.root) for made in built if isinstance(made, Example)]
    return LoraWork(context, stage="sft", method="sft", rows=rows)
