"""The questions of a benchmark: one file per suite, `<evaluate.folder>/<suite>.jsonl`, checked whole before any work.

A row is one conversation to be had with a model; `questions` holds one entry per user turn, and the model's own answer
to the first stays in the context of the second:

    {"id":"99e6…","suite":"text_instructions","prompt":{prompt/1, the first turn},"noise_image":{"path":…,"sha256":…},
     "questions":[{"text":"Words: sun, map. What is the last word? Answer with one word.","kind":"last","form":"word",
                   "answer":"map","accepted":{"word":"map","sentence":"The last word is map."},
                   "polarity":null,"options":[]}, …]}

`accepted` maps each form the answer can take to the one true answer in it, `form` is the form the question states
(null: none), `options` are the answers whose likelihood a choice suite compares, `polarity` is the truth of a yes/no
question. `answer_key` is for a judge that knows the scene; no scorer reads it. `truth` is what the benchmark's own
files say (references, capabilities), for suites that read those.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from msgspec import field

from annotate.errors import RecordError, UserError
from annotate.jsonl import read_rows, write_records
from annotate.records import Image, Part, Prompt, Record


class Question(Part, frozen=True, kw_only=True):
    """What one user turn asks, and what is right."""

    text: str
    kind: str
    form: Literal["sentence", "word", "list"] | None = None
    answer: str = ""
    accepted: dict[str, str] = field(default_factory=dict)
    polarity: Literal["positive", "negative"] | None = None
    options: tuple[str, ...] = ()
    answer_key: dict[str, Any] | None = None
    truth: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RecordError("question: text must not be empty")
        if self.truth is None and not self.answer.strip():
            raise RecordError("question: answer must not be empty")
        if self.truth is None and not self.accepted:
            raise RecordError("question.accepted: name at least one true answer")
        if self.form is not None and self.form not in self.accepted:
            raise RecordError(f"question.form: asks for {self.form}, but `accepted` has only {sorted(self.accepted)}")
        if self.options and (len(set(self.options)) != len(self.options) or self.answer not in self.options):
            raise RecordError(f"question.options: must differ and hold the answer {self.answer!r}")


class Row(Record, frozen=True, kw_only=True):
    """One line of a benchmark file."""

    SCHEMA: ClassVar[str] = "bench/1"
    id: str
    suite: str
    prompt: Prompt
    questions: tuple[Question, ...]
    noise_image: Image | None = None
    category: str = ""
    group: str = ""
    """Rows that the benchmark counts together (MMBench's circular passes of one question)."""
    temperature: float = 0.0
    """How the benchmark wants this row answered (MT-Bench: by category); 0 is greedy."""

    def __post_init__(self) -> None:
        if len(self.prompt.turns) != 1:
            raise RecordError("prompt: holds the first user turn alone; later turns are `questions`")
        if not self.questions:
            raise RecordError("questions: none; one entry per user turn is needed")
        if not self.prompt.turns[0].text.endswith(self.questions[0].text):
            raise RecordError("questions[0].text is not what the prompt asks")

    @property
    def cluster(self) -> str:
        """Rows about one image are not independent of each other; statistics resample these."""
        images = self.prompt.images
        return images[0].sha256 if images else self.group or self.id


def read_row(line: Any) -> Row:
    """A line of a benchmark file as a `Row`. Raises `RecordError` naming the field."""
    if not isinstance(line, dict) or not isinstance(line.get("prompt"), dict):
        raise RecordError("bench/1: expected an object with `id`, `suite`, `prompt` and `questions`")
    prompt = Prompt.from_json(line["prompt"]).to_json()
    del prompt["schema"]  # nested records carry none
    return Row.from_json({"schema": Row.SCHEMA, **line, "prompt": prompt})


def load_rows(path: Path, *, suite: str, limit: int | None = None) -> tuple[Row, ...]:
    """The rows of one benchmark file. Raises `UserError` with every fault found as `file:line: what`."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such benchmark file; set `evaluate.folder` to the folder that holds {path.name}, or take "
            f"{suite} out of `evaluate.suites` (data/prepare_demo.py writes the demo's)"
        )
    rows: dict[str, Row] = {}
    faults: list[str] = []
    for number, line in read_rows(path):
        try:
            row = read_row(line)
            if row.suite != path.stem:
                raise RecordError(f"suite {row.suite!r} stands in {path.name}")
            if row.id in rows:
                raise RecordError(f"id {row.id} occurs twice; models are joined on it")
            rows[row.id] = row
        except RecordError as error:
            faults.append(f"{path}:{number}: {error}")
    if not rows and not faults:
        faults.append(f"{path}: no questions in it")
    if faults:
        raise UserError(*faults)
    return tuple(rows.values())[:limit]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A benchmark file of these rows, whole or not at all."""
    write_records(path, ({**row.to_json(), "prompt": row.prompt.to_json()} for row in rows))
