"""CosmosQA: what is likely between the lines of an everyday story, four choices (Huang et al. 2019). Text only.

One of the two text QA sets of MLAN (Appendix A, Table 3: 25.3k rows, the training split). A line of `train.csv`:

    id,context,question,answer0,answer1,answer2,answer3,label
    3Q9S…##q1_a1##…,"It was late, …",Why did they walk?,They had missed the bus .,…,…,…,0
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_command import main
from sources import Excluded, Hub, Part, Raw, Row, Source, id_of, multiple_choice, number_of, text_of


def read(raw: Raw, _type: str) -> Iterator[Row | Excluded]:
    label = number_of(raw, "label")
    if label < 0:  # the test split is published without
        yield Excluded("no answer")
        return
    yield multiple_choice(
        id=id_of(raw, "id"),
        question=text_of(raw, "question").strip(),
        context=text_of(raw, "context").strip(),
        choices=[text_of(raw, f"answer{i}").strip() for i in range(4)],
        index=label,
    )


SOURCE = Source(
    name="cosmosqa",
    title="CosmosQA",
    licence="CC BY 4.0, by its card",
    url="https://github.com/wilburOne/cosmosqa (data/train.csv)",
    rows=25_262,
    modality="text",
    subsets={
        "default": (
            Part(
                files=("train.csv", "data/train.csv"),
                # The repository itself holds a loading script, which `datasets` no longer runs; this branch is parquet.
                hub=Hub(id="allenai/cosmos_qa", revision="refs/convert/parquet"),
            ),
        )
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
