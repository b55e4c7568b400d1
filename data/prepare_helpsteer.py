"""HelpSteer: prompts with up to four answers, each rated on five attributes from 0 to 4 (Wang et al. 2023). Text only.

A row of `train.jsonl` (or `train.jsonl.gz`, as it is published) is one answer:

    {"prompt": "What is …", "response": "…", "helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 2,
     "verbosity": 1}

Here one prompt is one record: `meta.responses` keeps every answer with its ratings, best first, and the reference is
the best by helpfulness + correctness + coherence (ties: the text that sorts first). To train on the ratings themselves,
convert the file: its answers and scores are what the pair builders read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from source_command import main
from source_files import read_file
from sources import Hub, Part, Raw, Row, Source, list_of, made_unique, number_of, text_of

from annotate.errors import RecordError

PINNED = "d797a9893b90d2ce71e4810f843a9aeba47bd67b"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def read(raw: Raw, _type: str) -> Iterator[Row]:
    prompt = text_of(raw, "prompt")
    answers = raw.get("responses") if "responses" in raw else [raw]
    responses = [_rated(answer) for answer in list_of({"responses": answers}, "responses")]
    responses.sort(key=lambda one: (-one["helpfulness"] - one["correctness"] - one["coherence"], one["response"]))
    yield Row(
        id=made_unique("helpsteer", prompt),
        turns=(("user", prompt), ("assistant", responses[0]["response"])),
        meta={"task": "instruction", "responses": responses},
    )


def _rated(raw: Raw) -> dict[str, Any]:
    scores = {name: number_of(raw, name) for name in ATTRIBUTES}
    for name, score in scores.items():
        if not 0 <= score <= 4:
            raise RecordError(f"field {name!r} is {score}, not from 0 to 4")
    return {"response": text_of(raw, "response"), **scores}


def gathered(rows: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """One row a prompt, wherever its answers stand; rows that do not read go through as they are."""
    places: dict[str, str] = {}
    by_prompt: dict[str, list[Any]] = {}
    for place, raw in rows:
        try:
            if isinstance(raw, RecordError) or not isinstance(raw, dict):
                raise raw if isinstance(raw, RecordError) else RecordError("a row must be an object")
            prompt = text_of(raw, "prompt")
            _rated(raw)
        except RecordError as error:
            yield place, error
            continue
        places.setdefault(prompt, place)
        by_prompt.setdefault(prompt, []).append(raw)
    for prompt, answers in by_prompt.items():
        yield places[prompt], {"prompt": prompt, "responses": answers}


def unpack(path: Path) -> Iterator[tuple[str, Any]]:
    return gathered(read_file(path))


SOURCE = Source(
    name="helpsteer",
    title="HelpSteer",
    licence="CC BY 4.0, by its card",
    url="https://huggingface.co/datasets/nvidia/HelpSteer",
    rows=35_331,
    modality="text",
    subsets={
        "train": (Part(files=("train.jsonl", "train.jsonl.gz"), hub=Hub(id="nvidia/HelpSteer", revision=PINNED)),),
        "validation": (
            Part(
                files=("validation.jsonl", "validation.jsonl.gz"),
                hub=Hub(id="nvidia/HelpSteer", split="validation", revision=PINNED),
            ),
        ),
    },
    read=read,
    unpack=unpack,
    gather=gathered,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
