"""The fast reader and the careful one: the same lines accepted, the same values, the same refusals."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.errors import RecordError
from annotate.records import (
    Annotated,
    Annotation,
    Completion,
    Example,
    Failure,
    Image,
    PreferencePair,
    Prompt,
    Rating,
    Reason,
    Record,
    Turn,
)
from annotate.strict import (
    _decoder,
    _finite,
    _finite_float,
    _refuse_constant,
    canonical_json,
    content_id,
    content_sha256,
    sha256_of,
)

PROMPT = Prompt.of(
    (
        Turn(role="system", text="Be brief."),
        Turn(role="user", text="<image>\nIs there a “7”?", images=(Image(path="a/7.png", sha256="77" * 32),)),
        Turn(role="assistant", text="No.\t\x7f\u2028"),
        Turn(role="user", text="Sure?"),
    ),
    source="digits",
    meta={"polarity": -1, "box": [0.5, 1e-7, None, True], "deep": {"": [[]]}},
)
YES, NO = (
    Completion.of(prompt_id=PROMPT.id, model="m", index=i, text=t, decoding={"temperature": 0.7}, finish_reason="stop")
    for i, t in enumerate(("Yes.", "No, null: 数."))
)
RATED = Annotation(
    id="a",
    prompt_id=PROMPT.id,
    mode="listwise",
    pass_index=0,
    shown_order=(NO.id, YES.id),
    ratings=tuple(Rating(completion_id=c.id, scores={"helpfulness": c.index}) for c in (YES, NO)),
    backend="hand",
    model="",
    rubric="mine",
    rubric_sha256="",
    request_sha256="",
    cost_usd=0.25,
)
RECORDS: list[Record] = [
    PROMPT,
    YES,
    RATED,
    Annotated(prompt=PROMPT, completions=(YES, NO), annotations=(RATED,)),
    PreferencePair.of(prompt=PROMPT, chosen=YES, rejected=NO, margin=None, rule="hand", evidence=("a",)),
    Example.of(prompt=PROMPT, completion="Yes.", source="hand", meta={"score": 11}),
    Failure(stage="pairs", record_id=PROMPT.id, reason=Reason.TIED),
]


def verdict(read: Any) -> Any:
    """What a reader makes of a line: the record, or the words it is refused with."""
    try:
        return read()
    except (RecordError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


def slow(kind: type[Record], line: bytes) -> Any:
    """The careful reader, fed with JSON alone: no NaN, no number beyond all floats."""
    as_json = partial(json.loads, parse_constant=_refuse_constant, parse_float=_finite_float)
    return verdict(lambda: kind.from_json(as_json(line.decode())))


# ------------------------------------------------------------------------------------------------- any damaged line

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5) | st.integers(2**62, 2**66),
    st.sampled_from([0.0, 1.0, 4.0, -0.0, 0.5, 1e16, 5e-324]),
    st.text(max_size=3) | st.sampled_from(["user", "stop", "tied", "<image>", YES.id, NO.id, "\ud800"]),
    st.sampled_from(["[]", "{}", "[{}]"]).map(json.loads),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value, its own last."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [deeper for key, child in children for deeper in places(child, (*path, key))] + [path]


@st.composite
def damaged(draw: st.DrawFn) -> tuple[type[Record], bytes]:
    """A line of one of the records with up to two values changed, removed, or added to."""
    record = draw(st.sampled_from(RECORDS))
    row = json.loads(record.to_line())
    for _ in range(draw(st.integers(0, 2))):
        *above, key = draw(st.sampled_from([p for p in places(row) if p and p != ("schema",)]))
        place = row
        for step in above:
            place = place[step]
        match draw(st.sampled_from(["change", "remove", "add", "reorder"])):
            case "change":
                place[key] = draw(odd)
            case "remove":
                del place[key]
            case "add" if isinstance(place, dict):
                place[draw(st.sampled_from(["schema", "extra", ""]))] = draw(odd)
            case "add":
                place.insert(key, draw(odd))
            case "reorder" if isinstance(place, dict):
                place[key] = place.pop(key)
    ascii_only, spaces = draw(st.booleans()), draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    line = json.dumps(row, ensure_ascii=ascii_only, separators=spaces)
    return type(record), line.encode("utf-8", "surrogatepass") + draw(st.sampled_from([b"", b"\n", b" \r\n"]))


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_both_readers_say_the_same_of_any_line(drawn: tuple[type[Record], bytes]) -> None:
    kind, line = drawn
    assert verdict(lambda: kind.from_line(line)) == slow(kind, line)
    # and what the fast reader takes by itself, without asking the careful one, that one takes as well
    body = json.loads(line)
    body.pop("schema", None)
    try:
        taken = _decoder(kind).decode(json.dumps(body).encode())
    except (msgspec.MsgspecError, ValueError):
        return
    assert taken == kind.from_json({"schema": kind.SCHEMA, **body})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(RECORDS), st.data())
def test_both_readers_say_the_same_of_bytes_cut_or_spoilt(record: Record, data: st.DataObject) -> None:
    line = record.to_line()
    at = data.draw(st.integers(0, len(line) - 1))
    put = data.draw(st.sampled_from([b"", b"\xff", b"\x00", b"\t", b"0", b".", b"1e9", b'"', b"}", b",", b"\xe2\x80"]))
    spoilt = line[:at] + put + line[at + data.draw(st.integers(0, 3)) :]
    assert verdict(lambda: type(record).from_line(spoilt)) == slow(type(record), spoilt)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.SCHEMA)
def test_the_fast_reader_reads_what_we_write_by_itself(record: Record) -> None:
    line = record.to_line()
    assert _decoder(type(record)).decode(b"{" + line[line.index(b",") + 1 :]) == record == type(record).from_line(line)
    assert json.loads(line) == record.to_json()


# ------------------------------------------------------------------------------------------------ numbers and hashes


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_line_holds_a_number_json_has_no_word_for(number: float) -> None:
    pair = RECORDS[4]
    assert isinstance(pair, PreferencePair)
    turns = {"prompt": PROMPT, "chosen": YES, "rejected": NO, "rule": "hand"}
    worse = Completion.of(prompt_id=PROMPT.id, model="m", index=1, text="No.", decoding={"t": [0, {"x": number}]})
    for spoilt in (
        PreferencePair.of(**turns, margin=number),
        PreferencePair.of(**{**turns, "rejected": worse}, margin=None),
        PreferencePair.of(**turns, margin=None, meta={"logps": (1.0, number)}),
        Annotated(prompt=PROMPT, completions=(YES, worse), annotations=()),
    ):
        with pytest.raises(ValueError, match="NaN or an infinity"):
            spoilt.to_line()
    for word in ("NaN", "-Infinity", "1e999"):
        line = pair.to_line().replace(b'"margin":null', f'"margin":{word}'.encode())
        with pytest.raises(ValueError, match=word):
            PreferencePair.from_line(line)


def test_a_null_that_was_written_as_null_is_no_nan() -> None:
    assert b'"seed":null' in YES.to_line()
    assert _finite({"a": None, "b": [None, {"c": ()}]}) and not _finite({"b": [None, {"c": (math.nan,)}]})


def _more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)


ids = st.recursive(st.text() | st.integers(), _more, max_leaves=12)


@settings(deadline=None)
@given(st.lists(ids, max_size=4))
def test_an_id_is_the_hash_of_canonical_json(value: list[Any]) -> None:
    assert content_sha256(value) == sha256_of(value) and content_id(value) == sha256_of(value)[:16]
    assert json.loads(canonical_json(value)) == value
