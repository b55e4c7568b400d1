"""Every source on a small file of ours in its exact layout (`sources/README.md` says where each layout was read)."""

from __future__ import annotations

import gzip
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from source_scripts import FIXTURES, IMAGES, TRAIN2017, by_id, fixture, manifest, prepare, records, write_parquet

from align.prompts import load_prompts
from align.settings import Prompts

# script, folder, options: all there is of every source and subset that a folder can hold
EVERY: list[tuple[str, str, list[str]]] = [
    ("alpaca", "alpaca", []),
    ("aokvqa", "aokvqa", ["--image-root", str(TRAIN2017)]),
    ("arc", "arc", []),
    ("arc", "arc", ["--subset", "easy"]),
    ("commonsenseqa", "commonsenseqa", []),
    ("cosmosqa", "cosmosqa", []),
    ("helpsteer", "helpsteer", []),
    ("human_preference", "human_preference", ["--image-root", str(TRAIN2017)]),
    ("llava_instruct", "llava_instruct", ["--image-root", str(TRAIN2017)]),
    ("llava_instruct", "llava_instruct", ["--subset", "150k", "--image-root", str(TRAIN2017)]),
    ("llava_instruct", "llava_instruct", ["--subset", "80k", "--image-root", str(TRAIN2017)]),
    ("llava_pretrain", "llava_pretrain_595k", ["--image-root", str(IMAGES / "llava_pretrain_595k")]),
    ("llava_pretrain", "llava_pretrain_558k", ["--subset=558k", "--image-root", str(IMAGES / "llava_pretrain_558k")]),
    ("lrv", "lrv", ["--n", "all", "--image-root", str(IMAGES / "lrv")]),
    ("lrv", "lrv_chart", ["--subset", "chart", "--n", "all", "--image-root", str(IMAGES / "lrv_chart")]),
    ("scigraphqa", "scigraphqa", ["--n", "all", "--image-root", str(IMAGES / "scigraphqa")]),
    ("sharegpt", "sharegpt", []),
    ("squad", "squad", []),
    ("squad", "squad_v2", ["--subset", "v2.0"]),
    ("strategyqa", "strategyqa", []),
    ("vqav2", "vqav2", ["--image-root", str(IMAGES), "--image-prefix", "coco/train2014"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "folder", "options"), EVERY, ids=lambda value: value if isinstance(value, str) else ""
)
def test_output_is_accepted_where_prompts_are_read_and_the_counts_add_up(
    name: str, folder: str, options: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "prompts.jsonl"
    assert prepare(name, out, "--folder", FIXTURES / folder, *options) == 0
    root = options[options.index("--image-root") + 1] if "--image-root" in options else str(tmp_path)
    read = load_prompts(Prompts(file=str(out), image_root=root))
    assert not read.failures and not read.duplicates
    counts = manifest(out)["counts"]
    assert len(read.prompts) == counts["taken"] > 0
    assert counts["available"] == sum(counts["excluded"].values()) + counts["eligible"]
    assert counts["eligible"] == counts["taken"]
    for prompt in read.prompts:
        assert prompt.reference and prompt.source == name
        assert prompt.meta["modality"] == ("image" if prompt.images else "text")
        assert prompt.meta["task"] in {
            "conversation", "description", "reasoning", "caption", "instruction", "short_answer", "multiple_choice",
            "true_false",
        }  # fmt: skip


def taken(name: str, tmp_path: Path, *options: str | Path, folder: str = "") -> dict[str, dict[str, Any]]:
    out = tmp_path / f"{name}.jsonl"
    assert prepare(name, out, "--folder", FIXTURES / (folder or name), *options) == 0
    return by_id(out)


def asked(record: dict[str, Any]) -> str:
    (turn,) = record["turns"]
    text: str = turn["text"]
    return text


# ---------------------------------------------------------------------------------------------- prompts for preference


def test_scigraphqa_asks_the_first_question_and_keeps_the_rest(tmp_path: Path) -> None:
    found = taken("scigraphqa", tmp_path, "--n", "all", "--image-root", IMAGES / "scigraphqa")
    first = found["1800.01970v2-Figure1-1.png"]
    assert asked(first) == "<image>\nWhich curve rises faster?"
    assert first["reference"] == "The dashed one."
    assert first["meta"]["later_turns"] == [
        ["user", "Why is that?"],
        ["assistant", "Because the error falls with depth."],
    ]
    assert first["meta"]["caption"] == "Figure 1: a curve of ours."
    assert len(found) == 5  # the sixth row has no question: excluded, and counted so
    assert manifest(tmp_path / "scigraphqa.jsonl")["counts"]["excluded"] == {"no question-answer pair": 1}


def test_scigraphqa_can_ask_the_last_question_with_the_dialogue_before_it(tmp_path: Path) -> None:
    options = ("--n", "all", "--turn", "last", "--image-root", IMAGES / "scigraphqa")
    record = taken("scigraphqa", tmp_path, *options)["1800.01970v2-Figure1-1.png"]
    assert [(turn["role"], turn["text"]) for turn in record["turns"]] == [
        ("user", "<image>\nWhich curve rises faster?"),
        ("assistant", "The dashed one."),
        ("user", "Why is that?"),
    ]
    assert record["reference"] == "Because the error falls with depth."


def test_scigraphqa_from_its_parquet_shards_is_the_same(tmp_path: Path) -> None:
    rows = fixture("scigraphqa", "scigraphqa.jsonl")
    write_parquet(tmp_path / "hub/data/train-00000-of-00002-f92b0b8defd0a6e3.parquet", rows[:2])
    write_parquet(tmp_path / "hub/data/train-00001-of-00002-41e4f32726a2e648.parquet", rows[2:])
    shards, lines = tmp_path / "shards.jsonl", tmp_path / "lines.jsonl"
    options = ("--n", "4", "--image-root", IMAGES / "scigraphqa")
    assert prepare("scigraphqa", shards, "--folder", tmp_path / "hub", *options) == 0
    assert prepare("scigraphqa", lines, "--folder", FIXTURES / "scigraphqa", *options) == 0
    assert shards.read_bytes() == lines.read_bytes()


def test_lrv_keeps_the_polarity(tmp_path: Path) -> None:
    found = taken("lrv", tmp_path, "--n", "all", "--image-root", IMAGES / "lrv")
    polarity = {asked(record): record["meta"]["polarity"] for record in found.values()}
    assert polarity == {
        "<image>\nIs there a blue kettle on the stove?": "negative",
        "<image>\nWhat stands on the table?": "positive",
        "<image>\nDescribe the horse in the yard.": "negative",
        "<image>\nHow many windows has the house?": "positive",
        "<image>\nIs the man wearing a red hat?": "negative",
        "<image>\nWhat is the weather like?": "positive",
        "<image>\nWhat does the sign say?": "positive",
        "<image>\nIs a lion behind the sign?": "negative",
    }
    told = manifest(tmp_path / "lrv.jsonl")
    assert told["by_type"] == {"negative": {"eligible": 4, "taken": 4}, "positive": {"eligible": 4, "taken": 4}}
    assert [file["name"] for file in told["origin"]["files"]] == ["filter_cap1.json", "filter_cap_more1.json"]


def test_lrv_charts_say_no_polarity_and_none_is_guessed(tmp_path: Path) -> None:
    options = ("--subset", "chart", "--n", "all", "--image-root", IMAGES / "lrv_chart")
    found = taken("lrv", tmp_path, *options, folder="lrv_chart")
    assert [record["meta"]["polarity"] for record in found.values()] == ["unknown", "unknown"]


def test_lrv_reads_one_file_alone_and_says_what_is_absent(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "lrv/filter_cap1.json", tmp_path / "filter_cap.json")  # the text with coordinates
    out = tmp_path / "out.jsonl"
    assert prepare("lrv", out, "--folder", tmp_path, "--n", "all", "--image-root", IMAGES / "lrv") == 0
    assert len(records(out)) == 6
    assert manifest(out)["origin"]["absent"] == ["filter_cap_more1.json or filter_cap_more.json"]


def test_human_preference_keeps_both_answers_and_the_choice(tmp_path: Path) -> None:
    found = taken("human_preference", tmp_path, "--image-root", TRAIN2017)
    two = next(record for own_id, record in found.items() if own_id.startswith("000000052846-"))
    assert [turn["role"] for turn in two["turns"]] == ["user", "assistant", "user"]
    assert two["reference"] == "On a sofa, next to a cushion."
    meta = two["meta"]
    assert (meta["output_1"], meta["output_2"]) == ("In a tree.", "On a sofa, next to a cushion.")
    assert (meta["preference"], meta["hallucination"]) == (2, False)


@pytest.mark.parametrize(
    ("name", "folder", "options"),
    [
        ("squad", FIXTURES / "squad", []),
        ("vqav2", FIXTURES / "vqav2", ["--image-root", str(IMAGES), "--image-prefix", "coco/train2014"]),
        ("llava_instruct", FIXTURES / "llava_instruct", ["--subset", "150k", "--image-root", str(TRAIN2017)]),
    ],
)
def test_zipped_files_are_found_in_their_folder(name: str, folder: Path, options: list[str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for file in folder.glob("*.json"):
        (tmp_path / "in" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert prepare(name, tmp_path / "a.jsonl", "--folder", folder, *options) == 0
    assert prepare(name, tmp_path / "b.jsonl", "--folder", tmp_path / "in", *options) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_human_preference_drops_a_last_empty_answer(tmp_path: Path) -> None:
    (row, *_) = fixture("human_preference", "llava_7b_v1_preference.json")
    asked = row["conversations"]
    row["conversations"] = [*asked, {"from": "gpt", "value": ""}]
    (tmp_path / "llava_7b_v1_preference.json").write_text(json.dumps([row]))
    out = tmp_path / "out.jsonl"
    assert prepare("human_preference", out, "--folder", tmp_path, "--image-root", TRAIN2017) == 0
    (record,) = records(out)
    assert len(record["turns"]) == len(asked) and record["turns"][-1]["role"] == "user"


# -------------------------------------------------------------------------------------------------- visual instructions


def test_llava_instruct_types_come_from_the_files(tmp_path: Path) -> None:
    taken("llava_instruct", tmp_path, "--image-root", TRAIN2017)
    told = manifest(tmp_path / "llava_instruct.jsonl")["by_type"]
    assert {name: count["taken"] for name, count in told.items()} == {"conversation": 2, "detail": 2, "reasoning": 2}


def test_llava_instruct_keeps_every_turn(tmp_path: Path) -> None:
    found = taken("llava_instruct", tmp_path, "--type", "conversation", "--image-root", TRAIN2017)
    bus = next(record for own_id, record in found.items() if own_id.startswith("000000033471-"))
    assert [turn["text"] for turn in bus["turns"]] == [
        "<image>\nWhat colour is the bus?",
        "It is red.",
        "Is it moving?",
    ]
    assert bus["reference"] == "It stands still."
    assert len(bus["turns"][0]["images"]) == 1


def test_llava_instruct_union_gets_its_types_from_the_type_files_beside_it(tmp_path: Path) -> None:
    found = taken("llava_instruct", tmp_path, "--subset", "80k", "--image-root", TRAIN2017)
    assert sorted(record["meta"]["type"] for record in found.values()) == [
        "conversation", "conversation", "detail", "reasoning",
    ]  # fmt: skip
    told = [file["name"] for file in manifest(tmp_path / "llava_instruct.jsonl")["origin"]["files"]]
    assert told == [
        "llava_instruct_80k.json", "conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json",
    ]  # fmt: skip


def test_llava_instruct_union_alone_has_unknown_types(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "llava_instruct/llava_instruct_150k.json", tmp_path)
    out = tmp_path / "out.jsonl"
    options = ("--subset", "150k", "--image-root", TRAIN2017)
    assert prepare("llava_instruct", out, "--folder", tmp_path, *options) == 0
    assert {record["meta"]["type"] for record in records(out)} == {"unknown"}


def test_llava_pretrain_is_a_caption_a_row(tmp_path: Path) -> None:
    options = ("--subset", "558k", "--image-root", IMAGES / "llava_pretrain_558k")
    record = taken("llava_pretrain", tmp_path, *options, folder="llava_pretrain_558k")["004539371"]
    assert (asked(record), record["reference"]) == ("<image>\nWhat is this?", "a wooden chair")
    assert record["turns"][0]["images"][0]["path"] == "00453/004539371.jpg"


# ---------------------------------------------------------------------------------------------------- text instructions


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    found = taken("alpaca", tmp_path).values()
    assert {asked(record): record["reference"] for record in found} == {
        "Name three ways to save water.": "Shorter showers, full machines, rain barrels.",
        "Translate into French.\n\nThe bread is warm.": "Le pain est chaud.",
        "Give the opposite of the word.\n\nearly": "late",
        "Count to five.": "1, 2, 3, 4, 5",
    }  # the row without an output is excluded


def test_sharegpt_as_people_meet_it(tmp_path: Path) -> None:
    found = taken("sharegpt", tmp_path)
    # begins with the end of an answer: left out, and said
    cut = found["QWJhYvA_1"]
    assert asked(cut) == "Now sort it." and cut["meta"]["left_out_turns"] == 1
    # a system turn and other names of the speakers
    assert [turn["role"] for turn in found["A5AbcES_0"]["turns"]] == ["system", "user"]
    assert found["A5AbcES_0"]["reference"] == "Eleven."
    # two turns: the first stays as the dialogue so far
    assert [turn["text"] for turn in found["QWJhYvA_0"]["turns"]][1] == "Eight minutes in boiling water."
    assert manifest(tmp_path / "sharegpt.jsonl")["counts"]["excluded"] == {
        "no question with an answer": 1,
        "speakers do not take turns": 1,
    }


def test_orca_from_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1M-GPT4-Augmented.parquet", fixture("orca", "rows.jsonl"))
    out = tmp_path / "out.jsonl"
    assert prepare("orca", out, "--folder", tmp_path) == 0
    found = by_id(out)
    assert [(turn["role"], turn["text"]) for turn in found["cot.86217"]["turns"]] == [
        ("system", "You answer in one word."),
        ("user", "Capital of Norway?"),
    ]
    assert len(found["niv.242684"]["turns"]) == 1  # an empty system prompt is none
    assert found["niv.242684"]["meta"]["type"] == "gpt4"


@pytest.mark.parametrize("packed", [False, True], ids=["jsonl", "jsonl.gz"])
def test_helpsteer_gathers_the_answers_of_a_prompt(tmp_path: Path, packed: bool) -> None:
    lines = (FIXTURES / "helpsteer/train.jsonl").read_bytes().splitlines(keepends=True)
    lines = [lines[4], lines[1], lines[5], lines[0], lines[3], lines[2]]  # the answers of a prompt need not be adjacent
    if packed:
        (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))
    else:
        (tmp_path / "train.jsonl").write_bytes(b"".join(lines))
    out = tmp_path / "out.jsonl"
    assert prepare("helpsteer", out, "--folder", tmp_path) == 0
    found = {asked(record): record for record in records(out)}
    fjord = found["What is a fjord?"]
    assert fjord["reference"] == "A long, narrow inlet with steep sides, carved by a glacier."
    assert [(r["response"], r["helpfulness"]) for r in fjord["meta"]["responses"]] == [
        ("A long, narrow inlet with steep sides, carved by a glacier.", 4),  # 4 + 4 + 4
        ("Water.", 1),  # 1 + 2 + 3
        ("A fjord is a kind of bird.", 0),  # 0 + 0 + 4
    ]
    assert len(found) == 3
    straight = tmp_path / "straight.jsonl"
    assert prepare("helpsteer", straight, "--folder", FIXTURES / "helpsteer") == 0
    assert straight.read_bytes() == out.read_bytes()


# ------------------------------------------------------------------------------------------------------------- MLAN's


def test_squad_has_passage_question_and_answer_apart_and_together(tmp_path: Path) -> None:
    record = taken("squad", tmp_path)["5733be284776f41900661182"]
    assert asked(record) == "The harbour was built in 1852 by Ida Berg.\n\nWhen was the harbour built?"
    meta = record["meta"]
    assert (meta["question"], meta["context"]) == (
        "When was the harbour built?",
        "The harbour was built in 1852 by Ida Berg.",
    )
    assert (meta["task"], meta["answer"], record["reference"]) == ("short_answer", "1852", "1852")


def test_squad_2_leaves_out_what_cannot_be_answered(tmp_path: Path) -> None:
    assert len(taken("squad", tmp_path, "--subset", "v2.0", folder="squad_v2")) == 1
    excluded = manifest(tmp_path / "squad.jsonl")["counts"]["excluded"]
    assert excluded == {"the paragraph does not answer it (SQuAD 2.0)": 1}


def test_cosmosqa_with_quotes_and_line_breaks_in_its_csv(tmp_path: Path) -> None:
    record = next(r for r in taken("cosmosqa", tmp_path).values() if "bus" in asked(r))
    assert asked(record) == (
        'It was late, and the bus had gone.\nWe walked, "just a mile", he said.\n\nWhy did they walk?\n'
        "A. They had missed the bus .\nB. They like to run .\nC. The car was new .\nD. None of the above choices ."
    )
    assert record["meta"]["answer_index"] == 0 and record["reference"] == "They had missed the bus ."


def test_strategyqa_is_yes_or_no_with_its_facts_as_rationale(tmp_path: Path) -> None:
    found = taken("strategyqa", tmp_path)
    candle, whale = found["4fd64bb6ce5b78ab20b6"], found["e94ffafafa6c6c01fd0f"]
    assert (candle["reference"], whale["reference"]) == ("no", "yes")
    assert candle["meta"]["rationale"] == "A flame needs oxygen. The Moon has no air."
    assert candle["meta"]["task"] == "true_false"


def test_commonsenseqa_finds_the_answer_by_its_label(tmp_path: Path) -> None:
    record = taken("commonsenseqa", tmp_path)["4c1cb0e95b99f72d55c068ba0255c54d"]
    assert record["meta"]["choices"] == ["snow", "ice", "a fan", "shade", "a fire"]
    assert (record["meta"]["answer_index"], record["reference"]) == (4, "a fire")


def test_arc_labels_may_be_digits(tmp_path: Path) -> None:
    record = taken("arc", tmp_path)["NYSEDREGENTS_2010_4_1"]
    assert asked(record) == "What does a plant take in?\nA. iron\nB. sand\nC. water"
    assert (record["meta"]["answer_index"], record["reference"], record["meta"]["type"]) == (2, "water", "challenge")


def test_vqav2_joins_its_two_files_by_question_id(tmp_path: Path) -> None:
    options = ("--image-root", IMAGES, "--image-prefix", "coco/train2014")
    found = taken("vqav2", tmp_path, *options)
    assert {own_id: record["reference"] for own_id, record in found.items()} == {
        "9000": "red", "9001": "no", "25002": "1",
    }  # fmt: skip
    red = found["9000"]
    assert red["turns"][0]["images"][0]["path"] == "coco/train2014/COCO_train2014_000000000009.jpg"
    assert red["meta"]["answers"] == ["red"] * 8 + ["blue"] * 2
    told = [file["name"] for file in manifest(tmp_path / "vqav2.jsonl")["origin"]["files"]]
    assert told == ["v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"]


def test_aokvqa_keeps_choices_rationales_and_free_answers(tmp_path: Path) -> None:
    record = taken("aokvqa", tmp_path, "--image-root", TRAIN2017)["22MexNkBPpdZGX6sxbxVBH"]
    assert asked(record) == (
        "<image>\nWhat is the red vehicle for?\nA. freight\nB. passengers\nC. racing\nD. ploughing"
    )
    meta = record["meta"]
    assert (meta["answer"], meta["answers"]) == ("passengers", ["passengers", "people"])
    assert meta["rationale"] == "It is a bus." and len(meta["rationales"]) == 3


# ------------------------------------------------------------------------------- the hub's columns, where they differ


def as_read(name: str, raw: dict[str, Any]) -> Any:
    (row,) = import_module(f"prepare_{name}").SOURCE.read(raw, "")
    return row


def test_columns_of_the_hub_read_as_the_files_do() -> None:
    squad = {
        "id": "5733be284776f41900661182", "title": "Harbour", "question": "When was the harbour built?",
        "context": "The harbour was built in 1852 by Ida Berg.",
    }  # fmt: skip
    of_file = as_read("squad", {**squad, "answers": [{"text": "1852", "answer_start": 25}]})
    assert as_read("squad", {**squad, "answers": {"text": ["1852"], "answer_start": [25]}}) == of_file

    csqa = fixture("commonsenseqa", "train_rand_split.jsonl")[1]
    choices = csqa["question"]["choices"]
    flat = {
        "id": csqa["id"], "question": csqa["question"]["stem"], "question_concept": "bread", "answerKey": "C",
        "choices": {"label": [c["label"] for c in choices], "text": [c["text"] for c in choices]},
    }  # fmt: skip
    assert as_read("commonsenseqa", flat) == as_read("commonsenseqa", csqa)

    candle = fixture("strategyqa", "strategyqa_train.json")[0]
    joined = {**candle, "facts": " ".join(candle["facts"])}  # one text in the hub's copy
    assert as_read("strategyqa", joined) == as_read("strategyqa", candle)

    story = {"id": "x", "context": "Rain.", "question": "Why?", **{f"answer{i}": f"a{i}" for i in range(4)}}
    assert as_read("cosmosqa", {**story, "label": 2}) == as_read("cosmosqa", {**story, "label": "2"})  # CSV has text


def test_vqav2_of_the_hub_brings_its_image() -> None:
    bytes_ = (IMAGES / "coco/train2014/COCO_train2014_000000000009.jpg").read_bytes()
    row = as_read(
        "vqav2",
        {
            "image": {"bytes": bytes_, "path": None}, "image_id": 9, "question_id": 9000, "question": "What colour?",
            "multiple_choice_answer": "red", "answers": [{"answer": "red", "answer_id": 1}], "answer_type": "other",
        },
    )  # fmt: skip
    assert row.image_bytes == (bytes_,) and row.image_files == ()
    assert row.turns == (("user", "<image>\nWhat colour?"), ("assistant", "red"))
