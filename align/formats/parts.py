"""What the formats have in common: answers, placeholders, pairs, and what a row holds beyond its record.

A format has one function `_plain(record)`, the row that the record makes by itself. Around it stand

    read    record = ...;  meta[<format>] = beyond(row, plain)     unknown keys, and known ones in another form
    write   restored(plain, meta[<format>], known=..., agrees=...)    the row as it was, where it still says the same

so that row -> record -> row gives the row back, and a record that was changed in between is not undone by its past.

    >>> beyond({"image": None, "prompt": "Why?", "votes": 3}, {"prompt": "Why?"})
    {'image': None, 'votes': 3}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from align.formats.format import Made, Row
from annotate.errors import RecordError
from annotate.records import (
    IMAGE_PLACEHOLDER,
    Completion,
    Example,
    Image,
    PreferencePair,
    Prompt,
    Turn,
    replace,
)

Role = Literal["system", "user", "assistant"]
UNKNOWN_MODEL = "unknown"
"""`Completion.model` where a row does not say who answered: equal content has equal ids, whatever the format."""
ABSENT = "_absent"
"""In `meta[<format>]`: keys that the row did not have although a written one would."""
REFERENCE_ORDER = tuple(
    (side, name) for side in ("chosen", "rejected") for name in ("logp", "avg_logp", "per_token_logp")
)


# ----------------------------------------------------------------------------------------------------- single fields


def text_in(row: Row, field: str) -> str:
    """A field that must be text. Raises `RecordError` where it is missing or something else."""
    if field not in row:
        raise RecordError(f"{field}: missing; every row needs it")
    value = row[field]
    if not isinstance(value, str):
        raise RecordError(f"{field}: expected text, got {type(value).__name__}")
    return value


def answer(text: str, where: str) -> str:
    """An answer that can be trained upon, as it is. Raises `RecordError` for an empty one and for placeholders.

    Trainers count placeholders in the whole dialogue: one inside an answer would be taken for an image.
    """
    if not text.strip():
        raise RecordError(f"{where}: empty answer; write one, or leave the row out")
    if IMAGE_PLACEHOLDER in text:
        raise RecordError(
            f"{where}: the answer contains {IMAGE_PLACEHOLDER}, which would be read as an image; remove it"
        )
    return text


def one_image(row: Row, field: str = "image") -> str | None:
    """The path of a row's only image; None where the field is absent or null."""
    path = row.get(field)
    if path is not None and not (isinstance(path, str) and path):
        raise RecordError(
            f"{field}: expected one path (text), got {type(path).__name__}; leave it out where there is none"
        )
    return path


# ----------------------------------------------------------------------------------------------------------- records


def prompt_from(turns: Iterable[tuple[Role, str]], images: Sequence[Image], *, where: str, **rest: Any) -> Prompt:
    """A prompt from roles, texts with their placeholders, and the images in order. `where` is named in errors."""
    turns = list(turns)
    n = sum([text.count(IMAGE_PLACEHOLDER) for _, text in turns])
    if n != len(images):
        raise RecordError(
            f"{where}: {n} {IMAGE_PLACEHOLDER} placeholder(s) but {len(images)} image(s): write one "
            f"{IMAGE_PLACEHOLDER} per image into the question"
        )
    try:
        if len(turns) == 1:
            return Prompt.of((Turn(role=turns[0][0], text=turns[0][1], images=tuple(images)),), **rest)
        return Prompt.of(placed(turns, images), **rest)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None
    except UnicodeEncodeError:
        raise RecordError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None


def placed(turns: Iterable[tuple[Role, str]], images: Iterable[Image]) -> tuple[Turn, ...]:
    """The turns, each with the images of its own placeholders, in order."""
    rest = iter(images)
    return tuple(
        [Turn(role=role, text=text, images=tuple(islice(rest, text.count(IMAGE_PLACEHOLDER)))) for role, text in turns]
    )


def pair_from(
    prompt: Prompt,
    chosen: str,
    rejected: str,
    *,
    rule: str,
    margin: float | None = None,
    meta: dict[str, Any] | None = None,
) -> PreferencePair:
    """A pair made elsewhere; `rule` is the format's name. Raises `RecordError` for answers not to be trained upon."""
    try:
        better, worse = (
            Completion.of(prompt_id=prompt.id, model=UNKNOWN_MODEL, index=index, text=answer(text, where))
            for index, (where, text) in enumerate((("chosen", chosen), ("rejected", rejected)))
        )
    except UnicodeEncodeError:
        raise RecordError("chosen or rejected: holds half of a surrogate pair (\\ud800 to \\udfff)") from None
    return PreferencePair.of(prompt=prompt, chosen=better, rejected=worse, margin=margin, rule=rule, meta=meta or {})


def pair_of(record: Made, form: str) -> PreferencePair:
    """The record as a pair with answers that can be trained upon. Raises `RecordError` otherwise."""
    if not isinstance(record, PreferencePair):
        raise RecordError(f"{form} holds preference pairs, not {type(record).__name__}; make some with `align pairs`")
    answer(record.chosen.text, "chosen")
    answer(record.rejected.text, "rejected")
    return record


def one_question(prompt: Prompt, form: str) -> Turn:
    """The only turn of a prompt, with at most one image. Raises `RecordError` for what a flat row cannot hold."""
    if len(prompt.turns) != 1:
        roles = ", ".join(turn.role for turn in prompt.turns)
        raise RecordError(f"{form} holds one question and its answers, no longer dialogue (here: {roles})")
    at_most_one_image(prompt, form)
    return prompt.turns[0]


def at_most_one_image(prompt: Prompt, form: str) -> Image | None:
    """The image of a prompt, if any. Raises `RecordError` where there are several."""
    images = prompt.images
    if len(images) > 1:
        raise RecordError(
            f"{form} holds one image a row, this prompt has {len(images)}; leave it out, or join the images"
        )
    return images[0] if images else None


# ---------------------------------------------------------------------------------------------- reference log-probs


def reference_from(six: Sequence[Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`meta["reference"]` from six values in REFERENCE_ORDER, None for those that are missing; empty if all are.

    As `names` calls them in errors. Values are taken as the tool stored them: the LLaVA family's `per_token_logp` runs
    over the whole sequence, prompt and image positions included.
    """
    found: dict[str, dict[str, Any]] = {}
    for (side, measure), value, name in zip(REFERENCE_ORDER, six, names, strict=True):
        if value is None:
            continue
        if measure == "per_token_logp":
            if not isinstance(value, list):
                raise RecordError(f"{name}: expected a list of numbers, got {type(value).__name__}")
            number: Any = [_number(v, f"{name}[{i}]") for i, v in enumerate(value)]
        else:
            number = _number(value, name)
        found.setdefault(side, {})[measure] = number
    return found


def six_of(reference: Any) -> list[Any]:
    """The six values of `meta["reference"]` in REFERENCE_ORDER, None where one is missing."""
    given = reference if isinstance(reference, Mapping) else {}
    sides = {side: value if isinstance(value := given.get(side), Mapping) else {} for side in ("chosen", "rejected")}
    return [sides[side].get(measure) for side, measure in REFERENCE_ORDER]


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordError(f"{where}: expected a finite number, got {value!r:.40}; compute the log-probabilities again")
    return float(value)


# ----------------------------------------------------------------------------------- what a row holds beyond its record


def beyond(row: Row, plain: Row) -> dict[str, Any]:
    """What the row holds that `plain`, written from its record, does not: see the module's docstring."""
    if ABSENT in row:
        raise RecordError(f"{ABSENT}: mmalign uses this name itself; rename it")
    kept = {key: value for key, value in row.items() if key not in plain or not _same(value, plain[key])}
    for key, value in kept.items():
        check_json(value, key)
    absent = [key for key in plain if key not in row]
    return {**kept, ABSENT: absent} if absent else kept


def with_beyond(record: Made, form: str, row: Row, plain: Row) -> Made:
    """The pair or example with `beyond` in its meta, if there is any."""
    assert isinstance(record, PreferencePair | Example)
    kept = beyond(row, plain)
    return replace(record, meta={**record.meta, form: kept}) if kept else record


def restored(
    plain: dict[str, Any], kept: Any, *, known: Collection[str], agrees: Callable[[Row], bool]
) -> dict[str, Any]:
    """The row as it was read. `known` keys keep their form of old only if the whole row `agrees` with the record."""
    if not isinstance(kept, Mapping) or not kept:
        return plain
    absent = kept.get(ABSENT, ())
    row = {key: value for key, value in {**plain, **kept}.items() if key != ABSENT and key not in absent}
    if (absent or any(key in known for key in kept)) and not agrees(row):
        return {**plain, **{key: value for key, value in kept.items() if key != ABSENT and key not in known}}
    return row


def agrees_with(record: Made, read: Callable[[Row, Any], Sequence[Made]]) -> Callable[[Row], bool]:
    """For `restored`: whether a row reads as the record's content, images by their paths."""

    def agrees(row: Row) -> bool:
        try:
            return bool(_content(read(row, _ByPath())[0]) == _content(record))
        except RecordError:
            return False

    return agrees


class _ByPath:
    """Images that are not looked at."""

    def named(self, path: str) -> Image:
        return Image(path=path, sha256="")

    def embedded(self, data: bytes, name: str = "") -> Image:
        raise RecordError("embedded images are not compared")

    def bytes_of(self, image: Image) -> bytes:
        raise RecordError("images are not read")


def _content(record: Made) -> Any:
    prompt = record if isinstance(record, Prompt) else record.prompt
    asked = [(turn.role, turn.text, [image.path for image in turn.images]) for turn in prompt.turns]
    said: Any = prompt.reference
    if isinstance(record, PreferencePair):
        said = (record.chosen.text, record.rejected.text, record.meta.get("reference"))
    elif isinstance(record, Example):
        said = record.completion
    return type(record), asked, prompt.source, prompt.source_id, said


def _same(a: Any, b: Any) -> bool:
    """Equal in value and type: 1, 1.0 and true are three things."""
    if a is b:  # most of a plain row are the row's own texts
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def check_json(value: Any, where: str) -> None:
    """Raise `RecordError` unless a record can keep the value: parquet and YAML know more than JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_json(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            check_json(inner, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"{where}: {value} is no number that a record can keep; drop the field, or fill it in")
    elif value is not None and not isinstance(value, str | int | float):
        raise RecordError(f"{where}: a record cannot keep {type(value).__name__}; drop the field, or make it text")
