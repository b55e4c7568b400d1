r"""HelpSteer and HelpSteer2: one answer a row, with five ratings; `image` is ours.

    {"prompt": "What is it?", "response": "A cat.", "helpfulness": 4, "correctness": 4, "coherence": 4,
     "complexity": 0, "verbosity": 1, "image": "cat.jpg"}

Rows with the same prompt and image are one `Annotated`, its completions in the order of their texts, so that the order
of rows in a file changes nothing. The two sets have the same columns and the same scales, 0 to 4; say `helpsteer2` for
rows that were rated by the second guide. `image` is a path, or a list of them; without a placeholder in the prompt they
stand before it. A prompt of several turns is one text, cut at `\n<extra_id_1>Assistant\n` and `\n<extra_id_1>User\n`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Annotated, Any

import msgspec

from align.formats.format import Format, Images, Made, Row
from align.formats.messages import Spoken, images_of
from align.formats.parts import UNKNOWN_MODEL, check_json, prompt_from, text_in
from align.formats.rated import Answer, annotated_of, shipped_rubric, whole_scores
from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER
from annotate.records import Annotated as AnnotatedPrompt

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_OURS = {"prompt", "response", "image", *ATTRIBUTES}
_NEEDED = len(_OURS) - 1
_Points = Annotated[int, msgspec.Meta(ge=0, le=4)]
_MARKS: Mapping[str, str] = {"assistant": "\n<extra_id_1>Assistant\n", "user": "\n<extra_id_1>User\n"}


def _recognises(row: Row) -> bool:
    return {"prompt", "response", *ATTRIBUTES} <= set(row)


# --------------------------------------------------------------------------------------------------------- reading


def _group_key(row: Row) -> str:
    """Prompt and images; the rest of a row is checked when its prompt is read."""
    image = row.get("image")
    paths = image if isinstance(image, list) else [] if image is None else [image]
    return msgspec.json.encode((text_in(row, "prompt"), paths)).decode()


class _Rated(msgspec.Struct, gc=False):
    """What a row says of one answer, as it must be."""

    response: str
    helpfulness: _Points
    correctness: _Points
    coherence: _Points
    complexity: _Points
    verbosity: _Points


class _Line(_Rated, forbid_unknown_fields=True, gc=False):
    """A row that says nothing else."""

    prompt: str
    image: str | list[str] | None = None


_LINES = msgspec.json.Decoder(list[_Line])
_in_order = attrgetter("response", *ATTRIBUTES)
"""The order of rows in a file is no property of the data, and an index is part of a completion's id."""


def _read_lines(lines: Sequence[bytes], images: Images, *, rubric: str) -> Sequence[Made]:
    try:
        rows = _LINES.decode(b"[%b]" % b",".join(lines))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()
    return _made(rows[0].prompt, rows[0].image, rows, images, rubric)


def _rated(rows: Sequence[Row]) -> list[_Rated]:
    """Raises `RecordError` for the first row with a field that is missing or wrong."""
    try:
        return msgspec.convert(rows, list[_Rated])
    except msgspec.ValidationError:
        for row in rows:
            _check(row)
        raise


def _check(row: Row) -> None:
    """The words for what is wrong with a row."""
    text_in(row, "response")
    for name in ATTRIBUTES:
        if name not in row:
            raise RecordError(f"{name}: missing; every row has the five ratings {', '.join(ATTRIBUTES)}")
        value = row[name]
        if type(value) is not int or not 0 <= value <= 4:
            raise RecordError(f"{name}: {value!r} is not a whole number from 0 to 4; write it as one, or drop the row")


def _read_group(rows: Sequence[Row], images: Images, *, rubric: str) -> Sequence[Made]:
    rated = _rated(rows)
    meta: dict[str, Any] = {}
    if any([len(row) > _NEEDED + ("image" in row) for row in rows]):
        in_order = sorted(range(len(rows)), key=lambda i: _in_order(rated[i]))
        meta = {"helpsteer": {"rows": [_beyond_ours(rows[i]) for i in in_order]}}
    return _made(text_in(rows[0], "prompt"), rows[0].get("image"), rated, images, rubric, meta)


def _made(
    text: str, image: Any, rated: Sequence[_Rated], images: Images, rubric: str, meta: dict[str, Any] | None = None
) -> Sequence[Made]:
    shown = images_of(image, images, "image")
    if shown and IMAGE_PLACEHOLDER not in text:
        text = (IMAGE_PLACEHOLDER + "\n") * len(shown) + text
    prompt = prompt_from(_turns(text), shown, where="prompt", meta=meta or {})
    answers = [
        Answer(
            text=one.response,
            model=UNKNOWN_MODEL,
            scores={
                "helpfulness": one.helpfulness,
                "correctness": one.correctness,
                "coherence": one.coherence,
                "complexity": one.complexity,
                "verbosity": one.verbosity,
            },
        )
        for one in sorted(rated, key=_in_order)
    ]
    return [annotated_of(prompt, answers, rubric=shipped_rubric(rubric), backend="human", model="human", checked=True)]


def _beyond_ours(row: Row) -> dict[str, Any]:
    beyond = {key: value for key, value in row.items() if key not in _OURS}
    for name, value in beyond.items():
        check_json(value, name)
    return beyond


def _turns(text: str) -> list[Spoken]:
    """The turns of a prompt; all of it is one where the marks do not alternate."""
    if "<extra_id_1>" not in text:
        return [("user", text)]
    texts = re.split("|".join(map(re.escape, _MARKS.values())), text)
    turns: list[Spoken] = [("assistant" if i % 2 else "user", said) for i, said in enumerate(texts)]
    whole = len(texts) % 2 == 1 and _joined(turns) == text and all(said.strip() for _, said in turns)
    return turns if whole else [("user", text)]


def _joined(turns: Sequence[Spoken]) -> str:
    return turns[0][1] + "".join(_MARKS[role] + text for role, text in turns[1:])


# --------------------------------------------------------------------------------------------------------- writing


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    assert isinstance(record, AnnotatedPrompt)
    turns: list[Spoken] = [(turn.role, turn.text) for turn in record.prompt.turns]
    if turns[0][0] == "system":
        raise RecordError(
            "prompt: begins with a system turn, for which HelpSteer has no place; put it into the question"
        )
    text = _joined(turns)
    if _turns(text) != turns:
        raise RecordError("prompt: a turn holds HelpSteer's mark between turns, <extra_id_1>; write it otherwise")
    paths = [image.path for image in record.prompt.images]
    prompt = {"prompt": text, **({"image": paths[0] if len(paths) == 1 else paths} if paths else {})}
    beyond = _beyond(record)
    rows = []
    for completion, scores, more in zip(record.completions, whole_scores(record, "HelpSteer"), beyond, strict=True):
        if set(scores) != set(ATTRIBUTES):
            raise RecordError(f"scores: HelpSteer has {', '.join(ATTRIBUTES)}, these are {', '.join(scores)}")
        rows.append({**prompt, "response": completion.text, **{n: scores[n] for n in ATTRIBUTES}, **more})
    return rows


def _beyond(record: AnnotatedPrompt) -> Sequence[Mapping[str, Any]]:
    """Further columns of each row, as long as there are as many rows."""
    found = record.prompt.meta.get("helpsteer")
    rows = found.get("rows") if isinstance(found, Mapping) else None
    return rows if isinstance(rows, list) and len(rows) == len(record.completions) else [{}] * len(record.completions)


def _format(name: str, title: str, recognises: Callable[[Row], bool]) -> Format:
    return Format(
        name=name,
        title=title,
        layout="huggingface.co/datasets/nvidia/HelpSteer df900ab, nvidia/HelpSteer2 282267c: README.md; "
        "NVIDIA/NeMo-Aligner af2b3bd9: examples/nlp/data/steerlm/preprocess_helpsteer{,2}_data.py",
        kinds=("annotated",),
        container="jsonl",
        recognises=recognises,
        group_key=_group_key,
        key_fields=("prompt", "image"),
        read_group=partial(_read_group, rubric=name),
        read_lines=partial(_read_lines, rubric=name),
        write=_write,
    )


FORMATS = (
    _format("helpsteer", "HelpSteer ratings, one answer a row; with `image`, also of what is shown", _recognises),
    _format(
        "helpsteer2", "the same columns, rated by HelpSteer2's guide (say so: the columns do not)", lambda row: False
    ),
)
