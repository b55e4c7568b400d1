r"""What the rows of a training set ask: files of any format, a question a row.

    {"schema":"example/1","prompt":{…"text":"<image>\nWhat is it?\nState it and stop."…},"meta":{"row":"91ab…",…},…}
    -> Question(item="91ab…", text="What is it?", vision=True)

Images are not opened: a row with one is vision-language, whatever it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from align.formats.containers import Progress, check_input, container_of, placed_at, read_rows
from align.formats.own import SCHEMAS, kind_of
from align.formats.reading import Fault, read_file
from align.mix.build import EXAMPLES
from align.templates import WORDINGS
from align.train.rows import Conversation
from annotate.errors import RecordError, UserError
from annotate.records import IMAGE_PLACEHOLDER, Annotated, Example, PreferencePair, Prompt, Turn

Asked = Literal["question", "turn"]
Row = Prompt | Annotated | PreferencePair | Example | Conversation


class Question(NamedTuple):
    """One row."""

    item: str
    """What the row was made of: rows of one item ask the same, if in other words."""
    text: str
    """Empty where a row of images alone asks nothing."""
    vision: bool


def files_of(names: Sequence[str]) -> list[Path]:
    """The files that are meant, a folder being one that `align mix` wrote. Raises `UserError` for missing ones."""
    paths = [Path(name) / EXAMPLES if Path(name).is_dir() else Path(name) for name in names]
    for path in paths:
        check_input(path)
    return paths


def read_questions(path: Path, asked: Asked, progress: Progress = lambda done, total: None) -> Iterator[Question]:
    """Every row of a file as a question. Raises `UserError` with its faulty rows, after the last row."""
    first = next((placed.value for placed in read_rows(path) if not placed.fault), None)
    faults: list[Fault] = []
    if isinstance(first, dict) and first.get("schema") in (*SCHEMAS, Conversation.SCHEMA):
        yield from _own_rows(path, asked, faults, progress)
    else:
        yield from (_question(record, asked) for record in read_file(path, faults=faults, progress=progress))
    if faults:
        raise UserError(*map(str, faults))


def _own_rows(path: Path, asked: Asked, faults: list[Fault], progress: Progress) -> Iterator[Question]:
    """Our own records, which may be of several kinds in one file."""
    container = container_of(path)
    for placed in read_rows(path, progress=progress):
        try:
            yield _question(_own(placed.value, placed.fault), asked)
        except RecordError as error:
            faults.append(Fault(where=placed_at(path, container, placed.number), text=str(error)))


def _own(value: object, fault: str) -> Row:
    if fault or not isinstance(value, dict):
        raise RecordError(fault or f"expected an object, got {type(value).__name__}")
    kind = Conversation if value.get("schema") == Conversation.SCHEMA else kind_of(value.get("schema"))
    return kind.from_line(msgspec.json.encode(value))  # several times faster than `from_json`


def _question(row: Row, asked: Asked) -> Question:
    if isinstance(row, Conversation):
        return Question(Prompt.id_of(row.turns), _last(row.turns), bool(row.images))
    prompt = row if isinstance(row, Prompt) else row.prompt
    made_of = row.meta.get("row") if isinstance(row, Example) else None
    text = _last(prompt.turns)
    if asked == "question":
        alone = prompt.meta.get("question")
        if isinstance(alone, str) and alone.strip():
            text = alone
        elif isinstance(row, Example) and row.source == "instruct" and row.meta.get("type") in WORDINGS:
            text = _without_instruction(text, row.meta)
    text = text.replace(IMAGE_PLACEHOLDER, "").strip()
    return Question(made_of if isinstance(made_of, str) else prompt.id, text, bool(prompt.images))


def _last(turns: Sequence[Turn]) -> str:
    text = next(turn.text for turn in reversed(turns) if turn.role == "user")
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def _without_instruction(text: str, meta: Mapping[str, Any]) -> str:
    """A row of `align mix`, which is passage, empty line, question, instruction, options: the question alone."""
    lines, number = text.split("\n"), meta.get("instruction")
    if number is None:
        choices = meta.get("choices") or ()
        lines = lines[: len(lines) - len(choices)]
    else:
        wordings = WORDINGS[meta["type"]]
        wording = wordings[number] if isinstance(number, int) and 0 <= number < len(wordings) else None
        if wording not in lines:
            raise RecordError(
                f"meta.instruction: {number!r} is no wording that stands in the question, so it cannot be left out; "
                "embed whole turns with --text turn"
            )
        lines = lines[: len(lines) - 1 - lines[::-1].index(wording)]
    return "\n".join(lines).rpartition("\n\n")[2]
