"""ShareGPT: dialogues that people had with a chat service and shared. Text only; any file of the same layout is read.

A row of `ShareGPT_V3_unfiltered_cleaned_split.json`:

    {"id": "QWJhYvA_0", "conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}, …]}

The published files cut long dialogues, so that a row may begin with an answer or end with a question. What stands
before the first question or after the last answer is left out, and `meta.left_out_turns` says how many turns that were.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import dropwhile

from source_command import main
from sources import Excluded, Hub, Part, Raw, Row, Source, id_of, spoken

from annotate.records import IMAGE_PLACEHOLDER

FILE = "ShareGPT_V3_unfiltered_cleaned_split.json"


def read(raw: Raw, _type: str) -> Iterator[Row | Excluded]:
    own_id = id_of(raw, "id")
    if not raw.get("conversations"):
        yield Excluded("no turns")
        return
    said = spoken(raw["conversations"])
    system = [turn for turn in said[:1] if turn[0] == "system" and turn[1].strip()]
    turns = list(dropwhile(lambda turn: turn[0] != "user", said))
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
    if not turns:
        yield Excluded("no question with an answer")
    elif [role for role, _ in turns] != expected:
        yield Excluded("speakers do not take turns")
    elif not all(text.strip() for _, text in turns):
        yield Excluded("an empty turn")
    elif any(IMAGE_PLACEHOLDER in text for _, text in turns):
        yield Excluded(f"the text itself holds {IMAGE_PLACEHOLDER}")
    else:
        left_out = len(said) - len(turns) - len(system)
        meta = {"task": "conversation", **({"left_out_turns": left_out} if left_out else {})}
        yield Row(id=own_id, turns=(*system, *turns), meta=meta)


SOURCE = Source(
    name="sharegpt",
    title="ShareGPT (Vicuna, unfiltered)",
    licence="Apache-2.0 by its card; uncertain, as the words are those of users and of a service with terms",
    url="https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered",
    rows=94_145,
    modality="text",
    subsets={
        "default": (
            Part(
                files=(FILE, "ShareGPT_*.json", "sharegpt*.json", "sharegpt*.jsonl"),
                hub=Hub(id="anon8231489123/ShareGPT_Vicuna_unfiltered", data_files=FILE),
            ),
        )
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
