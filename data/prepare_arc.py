"""ARC: science questions of school examinations, three to five choices (Clark et al. 2018). Text only.

One of the three commonsense sets of MLAN (Appendix A, Table 3: 3.4k rows, which is Challenge with 1,119 and Easy with
2,251 training questions). A line of `ARC-Challenge/ARC-Challenge-Train.jsonl`:

    {"id": "Mercury_SC_415702", "question": {"stem": "…?", "choices": [{"text": "…", "label": "A"}, …]},
     "answerKey": "B"}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_choices import chosen
from source_command import main
from sources import Excluded, Hub, Part, Raw, Row, Source


def read(raw: Raw, part_type: str) -> Iterator[Row | Excluded]:
    yield chosen(raw, type=part_type)


def _part(name: str) -> Part:
    file = f"{name}-Train.jsonl"
    return Part(
        files=(file, f"{name}/{file}", f"ARC-V1-Feb2018-2/{name}/{file}"),
        type=name.removeprefix("ARC-").lower(),
        hub=Hub(id="allenai/ai2_arc", config=name),
    )


SOURCE = Source(
    name="arc",
    title="ARC",
    licence="CC BY-SA 4.0, by its card",
    url="https://allenai.org/data/arc (ARC-V1-Feb2018-2.zip)",
    rows=3_370,
    modality="text",
    types=("challenge", "easy"),
    subsets={
        "both": (_part("ARC-Challenge"), _part("ARC-Easy")),
        "challenge": (_part("ARC-Challenge"),),
        "easy": (_part("ARC-Easy"),),
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
