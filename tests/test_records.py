"""Strict reading: what a record accepts, and the sentence it refuses the rest with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from annotate.errors import RecordError, UserError
from annotate.jsonl import read_records, write_records
from annotate.records import (
    Annotated,
    Annotation,
    Completion,
    Failure,
    Image,
    Prompt,
    Rating,
    Reason,
    Rubric,
    Scale,
    Turn,
)

SEVEN = Image(path="a/seven.png", sha256="77" * 32)
PROMPT = Prompt.of((Turn(role="user", text="<image>\nIs there a 7?", images=(SEVEN,)),), source="digits")
COMPLETIONS = tuple(
    Completion.of(prompt_id=PROMPT.id, model="m", index=i, text=t) for i, t in enumerate(("Yes.", "No.", "7", "Maybe"))
)
HELPSTEER = Rubric(
    name="helpsteer",
    sha256="0" * 64,
    attributes={
        n: Scale(low=0, high=4) for n in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    },
)


def annotation(**changes: Any) -> Annotation:
    values: dict[str, Any] = {
        "id": "a",
        "prompt_id": PROMPT.id,
        "mode": "listwise",
        "pass_index": 0,
        "shown_order": tuple(c.id for c in reversed(COMPLETIONS)),
        "ratings": tuple(Rating(completion_id=c.id, scores={"helpfulness": i}) for i, c in enumerate(COMPLETIONS)),
        "backend": "hand",
        "model": "",
        "rubric": "mine",
        "rubric_sha256": "",
        "request_sha256": "",
    }
    return Annotation(**{**values, **changes})


def test_a_record_survives_its_line(tmp_path: Path) -> None:
    annotated = Annotated(prompt=PROMPT, completions=COMPLETIONS, annotations=(annotation(),))
    failure = Failure(stage="annotate", record_id=PROMPT.id, reason=Reason.UNPARSABLE, detail='"<script>"\u2028')
    write_records(tmp_path / "a.jsonl", [annotated])
    write_records(tmp_path / "f.jsonl", [failure])
    assert list(read_records(tmp_path / "a.jsonl", Annotated)) == [annotated]
    assert list(read_records(tmp_path / "f.jsonl", Failure)) == [failure]


def test_the_id_of_a_prompt_is_its_content_and_nothing_else() -> None:
    moved = Turn(role="user", text="<image>\nIs there a 7?", images=(Image(path="b/other.png", sha256=SEVEN.sha256),))
    assert Prompt.of((moved,), source="elsewhere", meta={"a": 1}).id == PROMPT.id
    other = Turn(role="user", text="<image>\nIs there a 7?", images=(Image(path="a/seven.png", sha256="78" * 32),))
    assert Prompt.of((other,)).id != PROMPT.id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"index": 1.0}, "completion/1.index: expected int, got float"),
        ({"index": True}, "completion/1.index: expected int, got bool"),
        ({"text": None}, "completion/1.text: expected str, got NoneType"),
        ({"txt": ""}, "unknown field 'txt'"),
        ({"finish_reason": "eos"}, "completion/1.finish_reason: 'eos' is none of stop, length"),
        ({"schema": "completion/9"}, "this line has schema 'completion/9'"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError, match=said.replace("(", r"\(")):
        Completion.from_json({**COMPLETIONS[0].to_json(), **change})


def test_a_missing_field_is_named() -> None:
    row = COMPLETIONS[0].to_json()
    del row["model"]
    with pytest.raises(RecordError, match="missing field 'model'"):
        Completion.from_json(row)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ((Turn(role="user", text="a"), Turn(role="user", text="b")), "must alternate"),
        ((Turn(role="user", text="a"), Turn(role="assistant", text="b")), "must alternate"),
        ((), "got none"),
        ((Turn(role="user", text="<image>\n ", images=(SEVEN,)),), "has no text"),
        ((Turn(role="user", text="a"), Turn(role="system", text="s"), Turn(role="assistant", text="b"),
          Turn(role="user", text="c")), "only come first"),
    ],
)  # fmt: skip
def test_a_prompt_ends_with_a_question(turns: tuple[Turn, ...], said: str) -> None:
    with pytest.raises(RecordError, match=said):
        Prompt.of(turns)


def test_placeholders_and_images_must_be_as_many() -> None:
    with pytest.raises(RecordError, match=r"2 <image> placeholder\(s\) but 1 image\(s\)"):
        Turn(role="user", text="<image><image> what?", images=(SEVEN,))


def test_an_edited_prompt_is_noticed() -> None:
    row = PROMPT.to_json()
    row["turns"][0]["text"] = "<image>\nIs there an 8?"
    with pytest.raises(RecordError, match="is not the hash of the turns"):
        Prompt.from_json(row)


def test_three_ratings_for_four_completions_are_refused() -> None:
    with pytest.raises(RecordError, match=r"3 rating\(s\) for 4 completion\(s\)"):
        annotation(ratings=annotation().ratings[:3])


@pytest.mark.parametrize("score", [5, -1, 3.0, True])
def test_a_score_is_an_integer_of_the_scale(score: Any) -> None:
    scores = {**dict.fromkeys(HELPSTEER.attributes, 2), "coherence": score}
    with pytest.raises(RecordError, match=r"scores.coherence: .* is not an integer from 0 to 4"):
        HELPSTEER.check(scores)


def test_an_annotation_with_a_float_score_is_refused() -> None:
    row = annotation().to_json()
    row["ratings"][0]["scores"]["helpfulness"] = 3.5
    with pytest.raises(RecordError, match=r"annotation/1.ratings\[0\].scores.helpfulness: expected int, got float"):
        Annotation.from_json(row)


def test_scores_are_means_over_passes() -> None:
    second = annotation(
        id="b", pass_index=1, ratings=tuple(Rating(completion_id=c.id, scores={"helpfulness": 4}) for c in COMPLETIONS)
    )
    annotated = Annotated(prompt=PROMPT, completions=COMPLETIONS, annotations=(annotation(), second))
    assert annotated.scores()[COMPLETIONS[1].id] == {"helpfulness": 2.5}  # (1 + 4) / 2


def test_a_line_cut_in_half_is_named_by_file_and_line(tmp_path: Path) -> None:
    whole = json.dumps(PROMPT.to_json())
    path = tmp_path / "prompts.jsonl"
    path.write_text(whole + "\n" + whole[:40] + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"prompts.jsonl:2: not a line of JSON"):
        list(read_records(path, Prompt))


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(json.dumps(PROMPT.to_json()).encode() + b'\n{"a": "\xe9"}\n')
    with pytest.raises(UserError, match=r"prompts.jsonl:2: not a line of JSON"):
        list(read_records(path, Prompt))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def lines() -> Any:
        yield PROMPT
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_records(tmp_path / "out.jsonl", lines())
    assert list(tmp_path.iterdir()) == []
