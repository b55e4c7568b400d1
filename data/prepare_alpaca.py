"""Alpaca: 52,002 instructions written by text-davinci-003 (Taori et al. 2023). Text only.

A row of `alpaca_data.json`:

    {"instruction": "Name the colour.", "input": "a ripe lemon", "output": "Yellow."}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_command import main
from sources import Excluded, Hub, Part, Raw, Row, Source, made_unique, optional_text, text_of


def read(raw: Raw, _type: str) -> Iterator[Row | Excluded]:
    instruction, given = text_of(raw, "instruction").strip(), optional_text(raw, "input")
    answer = optional_text(raw, "output")
    if not answer:  # the published file has 28 of them
        yield Excluded("no answer")
        return
    asked = f"{instruction}\n\n{given}" if given else instruction
    meta = {"task": "instruction", "instruction": instruction, **({"input": given} if given else {})}
    yield Row(id=made_unique("alpaca", asked), turns=(("user", asked), ("assistant", answer)), meta=meta)


SOURCE = Source(
    name="alpaca",
    title="Alpaca",
    licence="CC BY-NC 4.0, by its card and its repository's README",
    url="https://github.com/tatsu-lab/stanford_alpaca (alpaca_data.json)",
    rows=52_002,
    modality="text",
    subsets={
        "default": (
            Part(
                files=("alpaca_data.json", "train-*.parquet", "data/train-*.parquet"),
                hub=Hub(id="tatsu-lab/alpaca", revision="dce01c9b08f87459cf36a430d809084718273017"),
            ),
        )
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
