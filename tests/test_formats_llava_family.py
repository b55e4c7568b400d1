"""The files of LLaVA and of the alignment projects grown from it: what their rows say, and what they cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from format_rig import FIXTURES, KITE, LAMP, MLLM_DPO, POVID, RLAIF_V, VL_RLHF, asked, gpt, read, store, write

from align.cli import main
from align.formats import format_named
from align.formats.parts import UNKNOWN_MODEL
from align.formats.reading import read_file
from align.formats.writing import write_file
from annotate.errors import RecordError, UserError
from annotate.jsonl import read_records
from annotate.records import Annotated, Example, Image, PreferencePair, Prompt, Turn, replace

NAMES = ("llava", "mllm_dpo", "povid", "vl_rlhf", "rlaif_v", "llava_human_preference")


def fixture(name: str, folder: Path | None = None) -> list[Any]:
    file = FIXTURES / (f"{name}.parquet" if name == "rlaif_v" else f"{name}.json")
    return list(read_file(file, images=store(folder)))


def rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FIXTURES / f"{name}.json").read_text())
    return found


# ------------------------------------------------------------------------------------------------- what the rows say


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_names_the_repository_and_the_commit_it_was_read_from(name: str) -> None:
    layout = format_named(name).layout
    assert layout.split(" ")[0].count("/") == 1
    sources = (FIXTURES / "README.md").read_text()
    assert " ".join(layout.split(" ")[:2]).rstrip(",") in sources


@pytest.mark.parametrize("name", ["llava", "mllm_dpo", "povid", "vl_rlhf"])
def test_rows_of_the_fixtures_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    write_file(fixture(name), out, format_named(name), images=store())
    # as text, so that 4 and 4.0 differ
    assert [json.dumps(r, sort_keys=True) for r in json.loads(out.read_text())] == [
        json.dumps(r, sort_keys=True) for r in rows(name)
    ]


def test_the_parquet_rows_of_the_fixture_come_back_as_they_were(tmp_path: Path) -> None:
    import pyarrow.parquet

    out = tmp_path / "out.parquet"
    write_file(fixture("rlaif_v", tmp_path / "kept"), out, format_named("rlaif_v"), images=store(tmp_path / "kept"))
    before, after = (pyarrow.parquet.read_table(f).to_pylist() for f in (FIXTURES / "rlaif_v.parquet", out))
    assert after == before


def test_llava_rows_are_examples() -> None:
    lamp, kite, warm, both = fixture("llava")
    assert isinstance(lamp, Example) and lamp.source == "llava"
    assert lamp.prompt == replace(asked("<image>\nWhich colour is the lamp?", LAMP), source_id="lamp-1")
    assert lamp.completion == "It is yellow."
    # earlier answers are the dialogue so far; keys of its own are the prompt's, as align.prompts has them
    assert [turn.role for turn in kite.prompt.turns] == ["user", "assistant", "user"]
    assert (kite.prompt.source, kite.prompt.meta) == ("lrv", {"polarity": "positive"})
    assert (warm.prompt.source_id, warm.completion, warm.meta) == ("7", " Red and orange.\n", {"llava": {"id": 7}})
    assert [image.path for image in both.prompt.images] == [LAMP, KITE]


def test_a_llava_row_without_an_answer_is_a_prompt() -> None:
    row = {"id": "q", "conversations": [{"from": "human", "value": "Why?"}]}
    record = read("llava", row)
    assert record == replace(asked("Why?"), source_id="q")
    assert write("llava", record) == row
    # a prompt that knows its answer says it, as align.prompts reads it
    assert write("llava", replace(record, reference="So."))["conversations"][1] == {"from": "gpt", "value": "So."}


def test_mllm_dpo_rows_are_pairs_with_their_reference() -> None:
    kites, lamp, text, talk = fixture("mllm_dpo")
    assert isinstance(kites, PreferencePair) and kites.rule == "mllm_dpo"
    assert (kites.chosen.text, kites.rejected.text) == ("One.", "Three, of which one is green.")
    assert kites.margin == 5.0  # 12 - 7, the sums that came along
    assert kites.meta["reference"] == {
        "chosen": {"logp": -3.25, "avg_logp": -0.8125, "per_token_logp": [-0.25, -1.0, -0.5, -1.5]},
        "rejected": {"logp": -9.0, "avg_logp": -1.5, "per_token_logp": [-0.25, -1.0, -2.0, -1.75, -2.5, -1.5]},
    }
    assert kites.meta["mllm_dpo"]["Verbosity_candidate"] == 2
    assert lamp.prompt == asked('<image>\nIs the lamp\'s shade "round"?', LAMP)  # a question as Python text
    assert (lamp.margin, list(lamp.meta["mllm_dpo"])) == (None, ["question"])  # kept, so that it is written so again
    assert (text.prompt.images, text.prompt.turns[0].text) == ((), "What does 'été' mean?")
    assert [turn.text for turn in talk.prompt.turns] == ["<image>\nHow many kites are there?", "One.", "And lamps?"]


def test_povid_and_vl_rlhf_rows_are_pairs() -> None:
    sky, lamp, ice = fixture("povid")
    assert (sky.prompt.source_id, sky.rejected.text) == ("COCO_train2014_000000000007", "A red kite and two birds.")
    assert (lamp.chosen.text, lamp.rejected.text) == ("It is bright.", "A hand holds the switch.")
    assert ice.prompt.images == ()
    lamp, kite, prime = fixture("vl_rlhf")
    assert lamp.prompt == asked("<image>\nDescribe the lamp.", LAMP)  # no placeholder: the image comes first
    assert kite.prompt == asked("Whose kite is\n<image>", KITE)
    assert (prime.prompt, prime.meta) == (asked("Name a prime."), {"vl_rlhf": {"source": "hand-made"}})


def test_rlaif_v_rows_carry_their_image(tmp_path: Path) -> None:
    lamp, kite = fixture("rlaif_v", tmp_path)
    assert lamp.prompt.images[0].sha256 == store().named(LAMP).sha256
    assert (tmp_path / lamp.prompt.images[0].path).read_bytes() == (FIXTURES / LAMP).read_bytes()
    assert lamp.prompt.turns[0].text == "<image>\nWhat is the lamp's colour?"
    assert lamp.prompt.source == "COCO"
    # the order of the six: chosen's logp, average, tokens; then rejected's
    assert lamp.meta["reference"]["chosen"]["avg_logp"] == -0.8125
    assert lamp.meta["reference"]["rejected"]["per_token_logp"][2] == -2.0
    assert kite.meta["reference"] == lamp.meta["reference"]  # its logps are a bare list, as older files have it
    assert lamp.meta["rlaif_v"]["origin_split"] == '{"model": "llava15",  "type": "question_answering"}'


def test_human_preferences_are_pairwise_annotations() -> None:
    kite, lamp = sorted(fixture("llava_human_preference"), key=lambda record: record.prompt.source_id)
    assert isinstance(kite, Annotated)
    (said,) = kite.annotations
    assert (said.backend, said.mode, said.preference, said.ratings) == ("human", "pairwise", "first", ())
    assert said.shown_order == tuple(c.id for c in kite.completions)
    assert [c.text for c in kite.completions] == ["It cannot be seen; it looks like cloth.", "Of red silk from China."]
    assert kite.prompt.meta == {"llava_human_preference": {"hallucination": True}}
    assert lamp.annotations[0].preference == "second"
    assert [turn.text for turn in lamp.prompt.turns] == ["Is it on?\n<image>", "Yes.", "Why?"]
    assert Annotated.from_line(lamp.to_line()) == lamp


def test_several_comparisons_of_one_prompt_are_one_record_whatever_their_order(tmp_path: Path) -> None:
    kite, _ = rows("llava_human_preference")

    def row(one: str, other: str, preference: int) -> dict[str, Any]:
        said = {f"output_{i}": {"from": "llava", "value": text} for i, text in enumerate((one, other), start=1)}
        return {**kite, **said, "preference": preference}

    given = [row("Silk.", "Cloth.", 1), row("Cloth.", "Silk.", 2), row("Silk.", "Paper.", 2), row("Silk.", "Cloth.", 1)]
    # Silk over Cloth three times, Paper over Silk once
    for order in (given, given[::-1]):
        (tmp_path / "human.json").write_text(json.dumps(order))
        (record,) = read_file(tmp_path / "human.json", images=store())
        texts = {c.id: c.text for c in record.completions}
        assert list(texts.values()) == ["Cloth.", "Silk.", "Paper."]
        assert [(*(texts[id] for id in a.shown_order), a.preference) for a in record.annotations] == [
            ("Cloth.", "Silk.", "second"),
            ("Silk.", "Cloth.", "first"),
            ("Silk.", "Cloth.", "first"),
            ("Silk.", "Paper.", "second"),
        ]
        assert len({a.id for a in record.annotations}) == 4
        assert record.prompt.meta["llava_human_preference"] == {"rows": [{"hallucination": True}] * 4}
    out = tmp_path / "out"
    assert main(["pairs", str(tmp_path / "human.json"), str(out), "basis=preferences", "-q"]) == 0
    pairs = list(read_records(out / "preference.jsonl", PreferencePair))
    assert {(p.chosen.text, p.rejected.text) for p in pairs} == {("Silk.", "Cloth."), ("Paper.", "Silk.")}


def test_the_captions_beside_the_human_preferences_are_no_file_of_rows(tmp_path: Path) -> None:
    captions = tmp_path / "image_to_caption.json"
    captions.write_text(json.dumps({"000000000007.jpg": ["A kite.", "A red kite in the sky."]}))
    with pytest.raises(UserError, match="no format has the keys of its first row"):
        list(read_file(captions))


def test_human_preferences_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="llava_human_preference is only read"):
        out, form = tmp_path / "x.json", format_named("llava_human_preference")
        write_file(fixture("llava_human_preference"), out, form, images=store())


# ------------------------------------------------------------------------------------------- what a format cannot hold


def pair(prompt: Prompt, chosen: str = "A lamp.", **rest: Any) -> PreferencePair:
    from align.formats.parts import pair_from

    return pair_from(prompt, chosen, "A dog.", rule="preference", **rest)


TWO = asked("<image> or\n<image>?", LAMP, KITE)
LONG = Prompt.of(
    (*asked("<image>\nWhat?", LAMP).turns, Turn(role="assistant", text="A lamp."), Turn(role="user", text="On?"))
)


@pytest.mark.parametrize(
    ("name", "record", "words"),
    [
        ("mllm_dpo", pair(TWO), "mllm_dpo holds one image a row, this prompt has 2"),
        ("povid", pair(TWO), "povid holds one image a row, this prompt has 2"),
        ("vl_rlhf", pair(TWO), "vl_rlhf holds one image a row, this prompt has 2"),
        ("rlaif_v", pair(TWO), "rlaif_v holds one image a row, this prompt has 2"),
        ("vl_rlhf", pair(LONG), "vl_rlhf holds one question and its answers, no longer dialogue"),
        ("rlaif_v", pair(LONG), "rlaif_v holds one question and its answers, no longer dialogue"),
        ("rlaif_v", pair(asked("Why?")), "one image, before the question, in every row; here text only"),
        ("rlaif_v", pair(asked("What?\n<image>", LAMP)), "here the image stands elsewhere"),
        (
            "rlaif_v",
            pair(asked("<image>\nWhat?", LAMP), meta={"reference": {"chosen": {"logp": -1.0}}}),
            "all six reference log-probabilities or none",
        ),
        (
            "rlaif_v",
            pair(
                Prompt.of(
                    (
                        Turn(
                            role="user", text="<image>\nWhat?", images=(Image(path="images/none.png", sha256="0" * 64),)
                        ),
                    )
                )
            ),
            "image 'images/none.png'",
        ),
        ("povid", asked("Why?"), "povid holds preference pairs, not Prompt"),
        ("llava", pair(asked("Why?")), "llava holds examples and prompts, not PreferencePair"),
        ("llava", Example.of(prompt=asked("Why?"), completion="<image>", source="x"), "the answer contains <image>"),
    ],
)
def test_what_a_format_cannot_hold_is_told(name: str, record: Any, words: str) -> None:
    with pytest.raises(RecordError) as error:
        write(name, record)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["mllm_dpo", "povid", "vl_rlhf", "rlaif_v"])
def test_answers_not_to_be_trained_upon_are_not_written(name: str) -> None:
    good = pair(asked("<image>\nWhat?", LAMP))
    for text, words in (("", "chosen: empty answer"), ("an <image>", "chosen: the answer contains <image>")):
        with pytest.raises(RecordError, match=words):
            write(name, replace(good, chosen=replace(good.chosen, text=text)))


# ------------------------------------------------------------------------------------ what was changed is not undone


def in_other_words(record: PreferencePair) -> PreferencePair:
    return replace(record, chosen=replace(record.chosen, text="In other words."))


ODD: list[tuple[str, dict[str, Any], Callable[[dict[str, Any]], str]]] = [
    # (format, a row in a form that is not the usual one, where its chosen answer is)
    ("mllm_dpo", {**MLLM_DPO, "chosen": {**gpt("A lamp."), "score": 4}, "votes": 3}, lambda r: r["chosen"]["value"]),
    ("mllm_dpo", {**MLLM_DPO, "question": '{"from":"human","value":"<image>\\nWhat?"}', "votes": 3},
     lambda r: r["chosen"]["value"]),
    ("povid", {**POVID, "id": 5, "votes": 3}, lambda r: r["conversations"][-1]["value"]),
    ("vl_rlhf", {**VL_RLHF, "prompt": "<image>\nWhat?", "votes": 3}, lambda r: r["chosen"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "chosen"), ODD)
def test_a_record_that_was_changed_is_written_as_it_is_now(
    name: str, row: dict[str, Any], chosen: Callable[[dict[str, Any]], str]
) -> None:
    record = read(name, row)
    assert write(name, record) == row
    written = write(name, in_other_words(record))
    assert chosen(written) == "In other words."
    assert written["votes"] == 3
    assert read(name, written).prompt == record.prompt


def test_log_probabilities_computed_anew_replace_the_old_ones(tmp_path: Path) -> None:
    row = {**RLAIF_V, "logps": "[-1.0, -0.5, [-0.5], -2.0, -1.0, [-1.0]]"}
    images = store(tmp_path)
    record = read("rlaif_v", row, images)
    assert write("rlaif_v", record, images) == row
    new = {side: {"logp": -8.0, "avg_logp": -4.0, "per_token_logp": [-8.0]} for side in ("chosen", "rejected")}
    written = write("rlaif_v", replace(record, meta={**record.meta, "reference": new}), images)
    assert json.loads(written["logps"]) == {"logps": [-8.0, -4.0, [-8.0], -8.0, -4.0, [-8.0]]}
    assert (written["idx"], written["origin_split"]) == ("3", "{}")


def test_a_pair_of_ours_loses_only_who_answered(tmp_path: Path) -> None:
    ours = pair(replace(asked("<image>\nWhat?", LAMP), source="lrv", source_id="17", meta={"polarity": "positive"}))
    back = read("povid", write("povid", ours))
    assert back.prompt == ours.prompt
    assert back.chosen.model == UNKNOWN_MODEL
