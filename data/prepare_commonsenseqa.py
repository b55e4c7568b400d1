"""CommonsenseQA: five choices around a concept of ConceptNet (Talmor et al. 2019). Text only.

One of the three commonsense sets of MLAN (Appendix A, Table 3: 9.7k rows, the training split). A line of
`train_rand_split.jsonl`; the hub has the same without the object around the question:

    {"answerKey": "A", "id": "075e48…", "question": {"question_concept": "umbrella", "choices": [
        {"label": "A", "text": "…"}, …], "stem": "Where …?"}}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_choices import chosen
from source_command import main
from sources import Excluded, Hub, Part, Raw, Row, Source, optional_text

FILE = "train_rand_split.jsonl"


def read(raw: Raw, _type: str) -> Iterator[Row | Excluded]:
    held = raw["question"] if isinstance(raw.get("question"), dict) else raw
    yield chosen(raw, meta={"concept": optional_text(held, "question_concept")})


SOURCE = Source(
    name="commonsenseqa",
    title="CommonsenseQA",
    licence="MIT, by its card",
    url=f"https://www.tau-nlp.sites.tau.ac.il/commonsenseqa (https://s3.amazonaws.com/commensenseqa/{FILE})",
    rows=9_741,
    modality="text",
    subsets={"default": (Part(files=(FILE,), hub=Hub(id="tau/commonsense_qa")),)},
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
