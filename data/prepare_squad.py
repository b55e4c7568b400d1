"""SQuAD: questions on a paragraph of Wikipedia, the answer a piece of it (Rajpurkar et al. 2016, 2018). Text only.

One of the two text QA sets of MLAN (Appendix A, Table 3: 87.6k rows, which is version 1.1). Questions of version 2.0
that the paragraph does not answer are excluded, as there is nothing to answer them with. `train-v1.1.json`:

    {"data": [{"title": "…", "paragraphs": [{"context": "…", "qas": [
        {"id": "5733be28…", "question": "When …?", "answers": [{"text": "1852", "answer_start": 25}]}]}]}],
     "version": "1.1"}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from source_command import main
from source_files import json_items
from sources import Excluded, Hub, Part, Raw, Row, Source, id_of, list_of, text_of

from annotate.errors import RecordError


def read(raw: Raw, _type: str) -> Iterator[Row | Excluded]:
    own_id, question, context = id_of(raw, "id"), text_of(raw, "question").strip(), text_of(raw, "context").strip()
    answers = raw.get("answers")
    if isinstance(answers, dict):  # the hub's columns: {"text": ["1852"], "answer_start": [25]}
        texts = list_of(answers, "text")
    else:
        texts = [answer.get("text") if isinstance(answer, dict) else None for answer in list_of(raw, "answers")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise RecordError("field 'answers' holds an answer without text")
    if not texts:
        yield Excluded("the paragraph does not answer it (SQuAD 2.0)")
        return
    accepted = list(dict.fromkeys(text.strip() for text in texts))
    meta = {
        "task": "short_answer", "question": question, "context": context, "answer": accepted[0], "answers": accepted,
        "title": raw.get("title") or "",
    }  # fmt: skip
    yield Row(id=own_id, turns=(("user", f"{context}\n\n{question}"), ("assistant", accepted[0])), meta=meta)


def unpack(path: Path) -> Iterator[tuple[str, Any]]:
    """The questions of the nested file, each with its paragraph."""
    for place, article in json_items(path, "data"):
        try:
            for raw in _questions(article):
                yield f"{place}, question {raw.get('id')}", raw
        except (TypeError, KeyError, AttributeError):
            yield place, RecordError("not an article with paragraphs of context and qas")


def _questions(article: Any) -> Iterator[dict[str, Any]]:
    for paragraph in article["paragraphs"]:
        for qa in paragraph["qas"]:
            yield {**qa, "context": paragraph["context"], "title": article.get("title")}


SOURCE = Source(
    name="squad",
    title="SQuAD",
    licence="CC BY-SA 4.0, by its card",
    url="https://rajpurkar.github.io/SQuAD-explorer/ (train-v1.1.json, train-v2.0.json)",
    rows=87_599,
    modality="text",
    subsets={
        "v1.1": (Part(files=("train-v1.1.json",), hub=Hub(id="rajpurkar/squad")),),
        "v2.0": (Part(files=("train-v2.0.json",), hub=Hub(id="rajpurkar/squad_v2")),),
    },
    read=read,
    unpack=unpack,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
