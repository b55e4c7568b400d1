"""HelpSteer, UltraFeedback, VLFeedback: ratings made elsewhere; and what NVIDIA's tools are given."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.formats import format_named
from align.formats.containers import read_rows
from align.formats.parts import pair_from, prompt_from
from align.formats.reading import Fault, read_file
from align.formats.store import ImageStore
from align.formats.writing import write_file
from annotate.errors import RecordError, UserError
from annotate.records import Annotated, Prompt, Rating, replace
from annotate.rubric import load_rubric

FIXTURES = Path(__file__).parent / "formats"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
IMAGES = ImageStore(root=FIXTURES)


def annotated(file: str, form: str = "auto") -> list[Annotated]:
    found = list(read_file(FIXTURES / file, form=form, images=IMAGES))
    assert all(isinstance(record, Annotated) for record in found)
    return [record for record in found if isinstance(record, Annotated)]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def by_question(records: list[Annotated]) -> dict[str, Annotated]:
    return {record.prompt.turns[-1].text: record for record in records}


# ------------------------------------------------------------------------------------------------------------ HelpSteer


def test_helpsteer_rows_of_a_prompt_are_one_annotated() -> None:
    found = by_question(annotated("helpsteer.jsonl"))
    assert len(found) == 3
    kite = found["<image>\nWhat flies in the picture?"]
    assert [image.path for image in kite.prompt.images] == ["images/kite.png"]
    assert [c.text for c in kite.completions] == ["A plane, or a bird, or something else.", "A red kite."]
    plane, red = (c.id for c in kite.completions)
    assert kite.scores() == {
        plane: {"helpfulness": 1, "correctness": 0, "coherence": 3, "complexity": 1, "verbosity": 2},
        red: {"helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 0, "verbosity": 0},
    }
    (annotation,) = kite.annotations
    rubric = load_rubric("helpsteer")[0]
    assert (annotation.backend, annotation.rubric, annotation.rubric_sha256) == ("human", "helpsteer", rubric.sha256)


def test_helpsteer_turns_are_told_apart() -> None:
    german = by_question(annotated("helpsteer.jsonl"))["Say it in German."]
    assert [(t.role, t.text) for t in german.prompt.turns] == [
        ("user", "Hi."),
        ("assistant", "Hello! What can I do?"),
        ("user", "Say it in German."),
    ]
    assert german.prompt.meta == {"helpsteer": {"rows": [{"annotators": 3}]}}


def test_helpsteer2_names_its_own_guide() -> None:
    (annotation,) = annotated("helpsteer.jsonl", "helpsteer2")[0].annotations
    assert (annotation.rubric, annotation.rubric_sha256) == ("helpsteer2", load_rubric("helpsteer2")[0].sha256)


def test_helpsteer_there_and_back(tmp_path: Path) -> None:
    form = format_named("helpsteer")
    write_file(annotated("helpsteer.jsonl"), tmp_path / "out.jsonl", form, images=IMAGES)
    rows = [json.dumps(placed.value, sort_keys=True) for placed in read_rows(tmp_path / "out.jsonl")]
    was = [json.dumps(placed.value, sort_keys=True) for placed in read_rows(FIXTURES / "helpsteer.jsonl")]
    assert sorted(rows) == sorted(was)


def test_the_order_of_helpsteer_rows_is_no_matter(tmp_path: Path) -> None:
    rows = [placed.value for placed in read_rows(FIXTURES / "helpsteer.jsonl")]
    random.Random(3).shuffle(rows)
    again = list(read_file(lines(tmp_path / "shuffled.jsonl", rows), images=IMAGES))
    assert again == annotated("helpsteer.jsonl")


def test_an_image_without_a_placeholder_stands_first(tmp_path: Path) -> None:
    row = {**dict.fromkeys(ATTRIBUTES, 2), "prompt": "Which is lit?", "response": "The lamp."}
    several = {**row, "image": ["images/kite.png", "images/lamp.png"]}
    (record,) = read_file(lines(tmp_path / "rows.jsonl", [several]), images=IMAGES)
    assert isinstance(record, Annotated)
    assert record.prompt.turns[0].text == "<image>\n<image>\nWhich is lit?"
    assert [image.path for image in record.prompt.images] == ["images/kite.png", "images/lamp.png"]


GOOD = {**dict.fromkeys(ATTRIBUTES, 2), "prompt": "Why?", "response": "Because."}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"coherence": 4.0}, "coherence: 4.0 is not a whole number from 0 to 4; write it as one, or drop the row"),
        ({"coherence": True}, "coherence: True is not a whole number from 0 to 4"),
        ({"coherence": "4"}, "coherence: '4' is not a whole number from 0 to 4"),
        ({"coherence": None}, "coherence: None is not a whole number from 0 to 4"),
        ({"verbosity": 5}, "verbosity: 5 is not a whole number from 0 to 4"),
        ({"verbosity": -1}, "verbosity: -1 is not a whole number from 0 to 4"),
        ({"prompt": 7}, "prompt: expected text, got int"),
        ({"prompt": " "}, "prompt: a user turn has no text; write the question"),
        ({"response": ["Because."]}, "response: expected text, got list"),
        ({"prompt": "<image> Why?"}, "prompt: 1 <image> placeholder(s) but 0 image(s)"),
        ({"image": "images/gone.png"}, "image[0]: image 'images/gone.png': no such file"),
        ({"image": {"path": 3}}, "image[0]: expected the path of an image, or its bytes, got dict"),
    ],
)
def test_a_malformed_helpsteer_row_is_told_where_it_stands(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    file = lines(tmp_path / "rows.jsonl", [GOOD, {**GOOD, "response": "So."}, {**GOOD, **change}])
    faults: list[Fault] = []
    kept = list(read_file(file, form="helpsteer", images=IMAGES, faults=faults))
    assert [str(fault).startswith(f"{file}:3: {says}") for fault in faults] == [True], faults
    assert [len(record.completions) for record in kept if isinstance(record, Annotated)] == [2]


@pytest.mark.parametrize("missing", ["response", "helpfulness"])
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    file = lines(tmp_path / "rows.jsonl", [{k: v for k, v in GOOD.items() if k != missing}])
    with pytest.raises(UserError, match=f"rows.jsonl:1: {missing}: missing; every row"):
        list(read_file(file, form="helpsteer", images=IMAGES))


def rated(record: Annotated, *, passes: int) -> Annotated:
    """The same ratings as many times, helpfulness one more from the second time on."""
    (first,) = record.annotations
    more = tuple(
        Rating(completion_id=r.completion_id, scores={**r.scores, "helpfulness": min(4, r.scores["helpfulness"] + 1)})
        for r in first.ratings
    )
    later = [replace(first, id=f"{i:016}", pass_index=i, ratings=more) for i in range(1, passes)]
    return replace(record, annotations=(first, *later))


def test_means_of_passes_are_rounded_half_up() -> None:
    kite = by_question(annotated("helpsteer.jsonl"))["<image>\nWhat flies in the picture?"]
    writes = format_named("helpsteer").write
    assert writes is not None
    rows = writes(rated(kite, passes=2), IMAGES)  # 1 and 2 -> 1.5 -> 2; 4 and 4 -> 4
    assert [row["helpfulness"] for row in rows] == [2, 4]


@pytest.mark.parametrize("form", ["helpsteer", "nemo_steerlm"])
def test_a_completion_without_scores_has_no_row(form: str) -> None:
    fruit = by_question(annotated("helpsteer.jsonl"))["Name a fruit that is blue."]
    (annotation,) = fruit.annotations
    half = replace(annotation, shown_order=annotation.shown_order[:1], ratings=annotation.ratings[:1])
    writes = format_named(form).write
    assert writes is not None
    with pytest.raises(RecordError, match=r"completion 1 is not rated, and every row of .* has scores; annotate it"):
        writes(replace(fruit, annotations=(half,)), IMAGES)


@pytest.mark.parametrize(
    ("talk", "says"),
    [
        ([("system", "Be brief."), ("user", "Hi")], "prompt: begins with a system turn, for which HelpSteer"),
        ([("user", "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc")], "prompt: a turn holds HelpSteer's mark"),
    ],
)
def test_what_helpsteer_cannot_hold(talk: list[Any], says: str) -> None:
    prompt = prompt_from(talk, (), where="prompt")
    writes = format_named("helpsteer").write
    assert writes is not None
    with pytest.raises(RecordError, match=says):
        writes(Annotated(prompt=prompt, completions=(), annotations=()), IMAGES)


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip()) and "<image>" not in text
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
scores = st.fixed_dictionaries({name: st.integers(0, 4) for name in ATTRIBUTES})
more = st.dictionaries(st.sampled_from(["votes", "año"]), st.one_of(st.none(), st.integers(), words), max_size=2)


@settings(max_examples=60, deadline=None)
@given(
    questions=st.lists(words, min_size=1, max_size=3),
    answers=st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), scores, more), min_size=1
    ),
    image=st.booleans(),
)
def test_helpsteer_rows_as_hypothesis_has_them(questions: list[str], answers: list[Any], image: bool) -> None:
    """Any number of turns and answers, also the same answer twice; rows come back as they went in."""
    text = questions[0] + "".join(
        f"\n<extra_id_1>Assistant\nOh?\n<extra_id_1>User\n{question}" for question in questions[1:]
    )
    shown = {"image": "images/kite.png"} if image else {}
    prompt = ("<image>\n" if image else "") + text
    rows = [{"prompt": prompt, "response": r, **s, **m, **shown} for r, s, m in answers]
    form = format_named("helpsteer")
    assert form.read_group is not None and form.group_key is not None and form.write is not None
    assert len({form.group_key(row) for row in rows}) == 1
    (record,) = form.read_group(rows, IMAGES)
    assert isinstance(record, Annotated) and len(record.prompt.turns) == 2 * len(questions) - 1
    assert Annotated.from_line(record.to_line()) == record
    again = form.write(record, IMAGES)
    key = json.dumps
    assert sorted(key(row, sort_keys=True) for row in again) == sorted(key(row, sort_keys=True) for row in rows)


# -------------------------------------------------------------------------------------------------------- UltraFeedback


def test_what_an_ultrafeedback_row_says() -> None:
    (record,) = annotated("ultrafeedback.jsonl")
    assert (record.prompt.turns[0].text, record.prompt.source) == ("Name a fruit that is blue.", "sharegpt")
    chair, plum, berry, nothing = record.completions
    assert [c.model for c in record.completions] == ["alpaca-7b", "gpt-4", "starchat", "wizardlm-7b"]
    # "N/A" for honesty: unrated, not a zero; the others by their digits
    assert record.scores() == {
        chair.id: {"instruction_following": 1, "honesty": 2, "truthfulness": 1, "helpfulness": 1},
        plum.id: {"instruction_following": 5, "honesty": 5, "truthfulness": 5, "helpfulness": 4},
        nothing.id: {"instruction_following": 1, "honesty": 1, "truthfulness": 1, "helpfulness": 1},
    }
    assert berry.id not in record.annotations[0].shown_order
    assert record.annotations[0].ratings[0].rationale == (
        "instruction_following: It names one.\nhonesty: Own words.\ntruthfulness: Own words.\nhelpfulness: Of use."
    )
    assert record.annotations[0].rubric_sha256 == load_rubric("ultrafeedback")[0].sha256


def test_an_overall_score_of_10_for_a_chair_stays_out_of_the_scores() -> None:
    """OpenBMB/UltraFeedback#8: 1 was read as 10. Kept for who wants to look, used by nobody."""
    (record,) = annotated("ultrafeedback.jsonl")
    assert record.prompt.meta["ultrafeedback"]["completions"][0]["overall_score"] == 10.0
    assert record.prompt.meta["ultrafeedback"]["models"] == ["alpaca-7b", "gpt-4", "starchat", "wizardlm-7b"]
    assert max(record.scores()[record.completions[0].id].values()) == 2


def test_ultrafeedback_without_annotations_is_unrated(tmp_path: Path) -> None:
    (row,) = (placed.value for placed in read_rows(FIXTURES / "ultrafeedback.jsonl"))
    for completion in row["completions"]:
        completion["annotations"] = {}
    (record,) = read_file(lines(tmp_path / "rows.jsonl", [row]), images=IMAGES)
    assert isinstance(record, Annotated) and len(record.completions) == 4 and record.annotations == ()


def changed(row: Any, at: list[Any], value: Any) -> Any:
    """A copy of the row with one thing in it changed."""
    if not at:
        return value
    copy = dict(row) if isinstance(row, dict) else list(row)
    copy[at[0]] = changed(copy[at[0]] if len(at) > 1 else None, at[1:], value)
    return copy


HONESTY = ["completions", 1, "annotations", "honesty"]


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        ([*HONESTY, "Rating"], "10", "completions[1].annotations.honesty.Rating: '10' is none of '1' to '5' or 'N/A'"),
        ([*HONESTY, "Rating"], "0", "completions[1].annotations.honesty.Rating: '0' is none of"),
        ([*HONESTY, "Rating"], 4, "completions[1].annotations.honesty.Rating: 4 is none of"),
        ([*HONESTY, "Rating"], "4/5", "completions[1].annotations.honesty.Rating: '4/5' is none of"),
        (HONESTY, "5", "completions[1].annotations.honesty: expected an object with 'Rating', got str"),
        (["completions", 1, "annotations"], ["5"], "completions[1].annotations: expected an object, aspects by name"),
        (["completions", 2, "response"], None, "completions[2].response: expected text, got nothing"),
        (["completions", 2, "model"], 4, "completions[2].model: expected text, got int"),
        (["completions"], [], "completions: expected a list of objects, got list"),
        (["completions"], "four", "completions: expected a list of objects, got str"),
        (["instruction"], None, "instruction: expected text, got NoneType"),
        (["instruction"], "Look: <image>", "instruction: 1 <image> placeholder(s) but 0 image(s)"),
        (["source"], 1, "source: expected text, got int"),
    ],
)
def test_a_malformed_ultrafeedback_row(tmp_path: Path, at: list[Any], value: Any, says: str) -> None:
    (row,) = (placed.value for placed in read_rows(FIXTURES / "ultrafeedback.jsonl"))
    file = lines(tmp_path / "rows.jsonl", [changed(row, at, value)])
    with pytest.raises(UserError) as caught:
        list(read_file(file, form="ultrafeedback", images=IMAGES))
    assert str(caught.value).startswith(f"{file}:1: {says}")


# ----------------------------------------------------------------------------------------------------------- VLFeedback


def vlfeedback_row() -> dict[str, Any]:
    (row,) = (placed.value for placed in read_rows(FIXTURES / "vlfeedback.jsonl"))
    assert isinstance(row, dict)
    return row


def test_what_a_vlfeedback_row_says() -> None:
    (record,) = annotated("vlfeedback.jsonl")
    assert record.prompt.turns[0].text == "<image>\nWhat flies in the picture?"
    assert (record.prompt.source, record.prompt.source_id) == ("vlfeedback", "own-1")
    assert record.prompt.meta == {"vlfeedback": {"models": ["gpt4v", "llava-v1.5-7b", "qwen-vl-chat", "mmicl"]}}
    by_model = {c.model: record.scores().get(c.id) for c in record.completions}
    assert by_model["llava-v1.5-7b"] == {"helpfulness": 2, "ethical_considerations": 5, "visual_faithfulness": 1}
    assert by_model["qwen-vl-chat"] is None  # N/A
    assert record.annotations[0].rubric == "vlfeedback"


def test_vlfeedback_as_datasets_has_it_is_the_same(tmp_path: Path) -> None:
    """`Sequence` of objects: one object of lists; the image in the row, as in copies of the set on the hub."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    row = vlfeedback_row()
    columns = {key: [completion[key] for completion in row["completions"]] for key in row["completions"][0]}
    kite = (FIXTURES / "images/kite.png").read_bytes()
    as_stored = {**row, "completions": columns, "image": {"bytes": kite, "path": "kite.png"}}
    del as_stored["img_path"]
    parquet.write_table(pyarrow.Table.from_pylist([as_stored]), tmp_path / "train.parquet")
    (record,) = read_file(tmp_path / "train.parquet", images=ImageStore(root=None, folder=tmp_path))
    (lines_record,) = annotated("vlfeedback.jsonl")
    assert isinstance(record, Annotated)
    assert (record.prompt.id, record.completions, record.annotations) == (
        lines_record.prompt.id,
        lines_record.completions,
        lines_record.annotations,
    )


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (
            ["completions", 0, "annotations", "Visual Faithfulness", "Rating"],
            "6",
            "completions[0].annotations.Visual Faithfulness.Rating: '6' is none of '1' to '5'",
        ),
        (["completions", 3, "response"], None, "completions[3].response: expected text, got nothing"),
        (["completions"], {"model": ["a"], "response": []}, "completions: expected lists of one length, or a list of"),
        (["img_path"], None, "img_path: expected the path of an image, or its bytes, got nothing"),
        (["img_path"], "images/gone.png", "img_path: image 'images/gone.png': no such file"),
        (["prompt"], 3, "prompt: expected text, got int"),
    ],
)
def test_a_malformed_vlfeedback_row(tmp_path: Path, at: list[Any], value: Any, says: str) -> None:
    file = lines(tmp_path / "rows.jsonl", [changed(vlfeedback_row(), at, value)])
    with pytest.raises(UserError) as caught:
        list(read_file(file, form="vlfeedback", images=IMAGES))
    assert str(caught.value).startswith(f"{file}:1: {says}")


# ----------------------------------------------------------------------------------------------------------------- NeMo


def test_nemo_steerlm_rows_are_nvidias() -> None:
    german = by_question(annotated("helpsteer.jsonl"))["Say it in German."]
    writes = format_named("nemo_steerlm").write
    assert writes is not None
    assert writes(german, IMAGES) == [
        {
            "system": "",
            "mask": "User",
            "type": "VALUE_TO_TEXT",
            "conversations": [
                {"from": "User", "value": "Hi.", "label": None},
                {"from": "Assistant", "value": "Hello! What can I do?", "label": None},
                {"from": "User", "value": "Say it in German.", "label": None},
                {
                    "from": "Assistant",
                    "value": "Hallo! Was kann ich für dich tun?",
                    "label": "helpfulness:4,correctness:3,coherence:4,complexity:1,verbosity:1",
                },
            ],
        }
    ]


def talk() -> Prompt:
    said: list[Any] = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello."), ("user", "Name a fruit.")]
    return prompt_from(said, (), where="prompt")


def test_nemo_preference_rows_are_nvidias() -> None:
    pair = pair_from(talk(), "Plum.", "Chair.", rule="preference")
    dpo, rl = format_named("nemo_dpo").write, format_named("nemo_rl").write
    assert dpo is not None and rl is not None
    assert dpo(pair, IMAGES) == [
        {
            "prompt": "<extra_id_0>System\nBe brief.\n<extra_id_1>User\nHi.\n<extra_id_1>Assistant\nHello.\n"
            "<extra_id_1>User\nName a fruit.\n<extra_id_1>Assistant\n",
            "chosen_response": "Plum.\n<extra_id_1>",
            "rejected_response": "Chair.\n<extra_id_1>",
        }
    ]
    assert rl(pair, IMAGES) == [
        {
            "context": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "Name a fruit."},
            ],
            "completions": [
                {"rank": 0, "completion": [{"role": "assistant", "content": "Plum."}]},
                {"rank": 1, "completion": [{"role": "assistant", "content": "Chair."}]},
            ],
        }
    ]


@pytest.mark.parametrize("form", ["nemo_steerlm", "nemo_dpo", "nemo_rl"])
def test_nemo_trains_on_text_alone(form: str) -> None:
    kite = by_question(annotated("helpsteer.jsonl"))["<image>\nWhat flies in the picture?"]
    record = kite if form == "nemo_steerlm" else pair_from(kite.prompt, "A kite.", "A plane.", rule="preference")
    writes = format_named(form).write
    assert writes is not None
    with pytest.raises(RecordError, match=r"prompt: shows 1 image\(s\); NeMo.* trains on text alone: leave it out"):
        writes(record, IMAGES)


@pytest.mark.parametrize("form", ["ultrafeedback", "vlfeedback"])
def test_what_is_only_read_is_not_written(tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match=f"{form} is only read, not written"):
        write_file(annotated(f"{form}.jsonl"), tmp_path / "out.jsonl", format_named(form), images=IMAGES)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "prompt": st.sampled_from(["Why?", "<image>\nWhy?", "Hi.\n<extra_id_1>Assistant\nHello.", " "]),
                "response": st.sampled_from(["Because.", "So.", "", "\ud800"]),
                **dict.fromkeys(ATTRIBUTES, st.sampled_from([0, 2, 4, 4, 4, 5, 2.0, True])),
            },
            optional={"image": st.sampled_from([None, "a.png", ["a.png"], 7]), "annotators": st.just(3)},
        ),
        min_size=1,
        max_size=4,
    )
)
def test_helpsteer_lines_are_read_at_once_as_they_are_one_by_one(rows: list[dict[str, Any]]) -> None:
    helpsteer, paths = format_named("helpsteer"), ImageStore(root=None)
    assert helpsteer.read_lines is not None and helpsteer.read_group is not None
    same = [{**row, "prompt": rows[0]["prompt"], "image": rows[0].get("image")} for row in rows]  # rows of one prompt
    try:
        found = helpsteer.read_lines([json.dumps(row).encode() + b"\n" for row in same], paths)
    except RecordError as error:
        with pytest.raises(RecordError) as slow:
            helpsteer.read_group(same, paths)
        assert str(slow.value) == str(error)
    else:
        assert not found or found == helpsteer.read_group(same, paths)
