r"""SciGraphQA: questions about graphs of scientific papers (Li & Tajbakhsh 2023), 3,000 of them as prompts.

Multi-Modal Preference Alignment, section 3.1, takes 3,000 samples without saying which; here they are drawn by hash.
The authors' published inference asks the first question of each dialogue, so that is the default (`--turn last`: the
last one, with the dialogue before it). A row of the parquet files, as `datasets` and pyarrow give it:

    {"image_file": "1801.01974v2-Figure10-1.png", "id": "1801.01974v2-Figure10-1.png", "caption": "Figure 10: …",
     "conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}], "first_mention": "…",
     "response": "Question: … Answer: …", "title": "…", "abstract": "…", "q_a_pairs": [["What …?", "The …"], …]}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_command import main
from sources import Excluded, Hub, Part, Raw, Row, Source, id_of, list_of, optional_text, text_of, with_image_first

from annotate.errors import RecordError


def read(raw: Raw, _type: str) -> Iterator[Row | Excluded]:
    turns: list[tuple[str, str]] = []
    for i, pair in enumerate(list_of(raw, "q_a_pairs")):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RecordError(f"q_a_pairs[{i}] is not a question and an answer")
        if not all(text.strip() for text in pair):
            raise RecordError(f"q_a_pairs[{i}] has an empty question or answer")
        question = pair[0].strip() if turns else with_image_first(pair[0])
        turns += [("user", question), ("assistant", pair[1].strip())]
    if not turns:
        yield Excluded("no question-answer pair")
        return
    meta = {"task": "conversation", "caption": optional_text(raw, "caption"), "title": optional_text(raw, "title")}
    yield Row(id=id_of(raw, "id"), turns=tuple(turns), image_files=(text_of(raw, "image_file"),), meta=meta)


SOURCE = Source(
    name="scigraphqa",
    title="SciGraphQA",
    licence="MIT by its card (the figures are from arXiv papers and stay under their authors' licences)",
    url="https://huggingface.co/datasets/alexshengzhili/SciGraphQA-295K-train",
    rows=295_602,
    n=3_000,
    modality="image",
    turn="first",
    images="the folder imgs/train of img.zip (18 GB, in the same repository)",
    subsets={
        "train": (
            Part(
                files=("train-*.parquet", "data/train-*.parquet", "scigraphqa*.json", "scigraphqa*.jsonl"),
                hub=Hub(id="alexshengzhili/SciGraphQA-295K-train", revision="846da24ffbde24b2992520cc332de677208a68bd"),
            ),
        ),
        "test": (
            Part(
                files=("1_percent_as_validation-*.parquet", "data/1_percent_as_validation-*.parquet"),
                hub=Hub(id="alexshengzhili/SciCapInstructed-graph-only-qa", split="1_percent_as_validation"),
            ),
        ),
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
