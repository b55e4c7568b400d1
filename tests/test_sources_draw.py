"""Which rows a draw takes, what happens to those that cannot be used, and what the manifest says of it all."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_scripts import FIXTURES, IMAGES, TRAIN2017, manifest, prepare, records, write_parquet


def alpaca(folder: Path, n: int, *, first: int = 0, shuffle: int | None = None) -> Path:
    """A folder with an Alpaca file of `n` rows."""
    rows = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(first, first + n)]
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alpaca_data.json").write_text(json.dumps(rows))
    return folder


def draw(folder: Path, out: Path, *options: str) -> list[str]:
    assert prepare("alpaca", out, "--folder", folder, *options) == 0
    return [record["reference"] for record in records(out)]


# ------------------------------------------------------------------------------------------------------------ the draw


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), order=st.integers(0, 99))
def test_the_same_rows_whatever_the_order_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, order: int
) -> None:
    tmp = tmp_path_factory.mktemp("order")
    options = ("--n", str(n), "--seed", str(seed))
    straight = draw(alpaca(tmp / "a", 40), tmp / "a.jsonl", *options)
    assert draw(alpaca(tmp / "b", 40, shuffle=order), tmp / "b.jsonl", *options) == straight
    assert (tmp / "a.jsonl").read_bytes() == (tmp / "b.jsonl").read_bytes()
    assert len(straight) == n == len(set(straight))


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    folder = alpaca(tmp_path / "in", 5000, shuffle=1)
    three, one, every = (draw(folder, tmp_path / "out.jsonl", "--n", n) for n in ("3000", "1000", "all"))
    assert (len(three), len(one), len(every)) == (3000, 1000, 5000)
    assert three[:1000] == one and every[:3000] == three


def test_one_more_row_displaces_at_most_one(tmp_path: Path) -> None:
    before = draw(alpaca(tmp_path / "a", 1000), tmp_path / "a.jsonl", "--n", "100")
    after = draw(alpaca(tmp_path / "b", 1001), tmp_path / "b.jsonl", "--n", "100")
    assert len(set(before) - set(after)) <= 1


def test_another_seed_draws_others_and_uniformly(tmp_path: Path) -> None:
    folder = alpaca(tmp_path / "in", 1000)
    drawn = [set(draw(folder, tmp_path / "out.jsonl", "--n", "100", "--seed", str(seed))) for seed in range(5)]
    # two draws of 100 out of 1,000 share 10 rows on average, with a standard deviation of 2.8
    shared = [len(a & b) for i, a in enumerate(drawn) for b in drawn[:i]]
    assert 5 <= sum(shared) / len(shared) <= 15
    low = sum(int(number) < 500 for some in drawn for number in some)  # of 500: 250 +- 11
    assert 200 <= low <= 300


def test_balance_takes_as_many_of_each_type_and_is_nested_too(tmp_path: Path) -> None:
    rows = [
        {
            "image_id": "2392588",
            "question": f"Is there a {i}?",
            "answer": "No.",
            "task": "negative" if i % 5 else "Count",
        }
        for i in range(200)  # 160 negative, 40 positive
    ]
    (tmp_path / "filter_cap1.json").write_text(json.dumps(rows))
    out = tmp_path / "out.jsonl"
    options = ("--folder", tmp_path, "--image-root", IMAGES / "lrv", "--balance")
    assert prepare("lrv", out, *options, "--n", "60") == 0
    sixty = [(record["id"], record["meta"]["polarity"]) for record in records(out)]
    assert [polarity for _, polarity in sixty] == ["negative", "positive"] * 30
    assert prepare("lrv", out, *options, "--n", "20") == 0
    assert [record["id"] for record in records(out)] == [prompt_id for prompt_id, _ in sixty[:20]]


def test_balance_of_one_side_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"image_id": "2392588", "question": "Is there a 7?", "answer": "No.", "task": "negative"}
    (tmp_path / "filter_cap1.json").write_text(json.dumps([row]))
    options = ("--folder", tmp_path, "--image-root", IMAGES / "lrv", "--balance", "--n", "1")
    assert prepare("lrv", tmp_path / "out.jsonl", *options) == 2
    assert "--balance: no row is positive (rows read: 1 negative); add the files" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    assert prepare("lrv", tmp_path / "out.jsonl", *options, "--type", "negative") == 0


def test_one_type_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    options = ("--type", "negative", "--n", "all", "--image-root", IMAGES / "lrv")
    assert prepare("lrv", out, "--folder", FIXTURES / "lrv", *options) == 0
    assert {record["meta"]["polarity"] for record in records(out)} == {"negative"}
    counts = manifest(out)["counts"]
    assert counts["excluded"] == {"type positive is not asked for": 4} and counts["taken"] == 4


# -------------------------------------------------------------------------------------------------------- the manifest


def test_the_manifest_adds_up_and_names_what_was_read_and_written(tmp_path: Path) -> None:
    rows: list[Any] = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(20)]
    rows += [rows[3], rows[4], rows[4]]  # three duplicates
    rows += [{"instruction": "Draw.", "input": "", "output": ""}, {"instruction": "", "output": "x"}, "not a row"]
    (tmp_path / "alpaca_data.json").write_text(json.dumps(rows))
    out = tmp_path / "out.jsonl"
    assert prepare("alpaca", out, "--folder", tmp_path, "--n", "20", "--invalid", "skip") == 0
    told = manifest(out)
    assert told["counts"] == {
        "available": 26, "excluded": {"no answer": 1},
        "malformed": {"a row must be an object, this is str": 1, "field 'instruction' is empty": 1},
        "eligible": 23, "duplicates": 3, "unusable": {}, "not_drawn": 0, "taken": 20, "ids_made_unique": 0,
    }  # fmt: skip
    source = tmp_path / "alpaca_data.json"
    assert told["origin"]["files"] == [{
        "name": "alpaca_data.json", "bytes": source.stat().st_size,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }]  # fmt: skip
    assert told["output"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (told["seed"], told["n"], told["licence"][:12]) == (0, 20, "CC BY-NC 4.0")
    failures = records(out.with_name("out.jsonl.failures.jsonl"))
    assert [(failure["record_id"], failure["reason"]) for failure in failures] == [
        ("alpaca_data.json row 25", "invalid_input"),
        ("alpaca_data.json row 26", "invalid_input"),
    ]


def test_a_repeated_id_with_other_words_is_made_unique(tmp_path: Path) -> None:
    rows = [
        {"id": "a_0", "conversations": [{"from": "human", "value": f"Say {i}."}, {"from": "gpt", "value": "Yes."}]}
        for i in range(3)
    ]
    (tmp_path / "sharegpt.json").write_text(json.dumps(rows))
    out = tmp_path / "out.jsonl"
    assert prepare("sharegpt", out, "--folder", tmp_path) == 0
    assert len({record["source_id"] for record in records(out)}) == 3
    assert manifest(out)["counts"]["ids_made_unique"] == 2


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    # without a folder of images: what is there, by type
    assert prepare("lrv", out, "--folder", FIXTURES / "lrv", "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["by_type"]["negative"]["eligible"] == 4
    # with one: also what could be taken
    options = ("--n", "6", "--image-root", IMAGES / "lrv", "--dry-run")
    assert prepare("lrv", out, "--folder", FIXTURES / "lrv", *options) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["taken"] == 6
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- the images


def broken_images(folder: Path) -> Path:
    """The images of the LRV fixture: one missing, one cut off, two sound."""
    shutil.copytree(IMAGES / "lrv", folder)
    (folder / "2392588.jpg").unlink()
    whole = (folder / "2324731.jpg").read_bytes()
    (folder / "2324731.jpg").write_bytes(whole[: len(whole) - 40])
    return folder


def test_unusable_images_are_told_with_their_file_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = broken_images(tmp_path / "images")
    out = tmp_path / "out.jsonl"
    assert prepare("lrv", out, "--folder", FIXTURES / "lrv", "--n", "8", "--image-root", root) == 2
    told = capsys.readouterr().err
    assert "4 row(s) cannot be used; nothing was written" in told
    assert "2392588-" in told and "image 2392588.jpg: no such file below --image-root" in told
    assert "image 2324731.jpg: is corrupt" in told
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_unusable_images_are_skipped_counted_and_replaced(tmp_path: Path) -> None:
    root = broken_images(tmp_path / "images")
    out = tmp_path / "out.jsonl"
    options = ("--image-root", root, "--invalid", "skip")
    assert prepare("lrv", out, "--folder", FIXTURES / "lrv", "--n", "4", *options) == 0
    used = {image["path"] for record in records(out) for image in record["turns"][0]["images"]}
    assert len(records(out)) == 4 and used == {"2370001.jpg", "2370002.jpg"}
    counts = manifest(out)["counts"]
    assert set(counts["unusable"]) <= {"image_missing", "image_unreadable"}
    assert counts["taken"] + counts["not_drawn"] + sum(counts["unusable"].values()) == counts["eligible"] == 8
    failures = records(out.with_name("out.jsonl.failures.jsonl"))
    assert len(failures) == sum(counts["unusable"].values())


def test_no_image_at_all_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    options = ("--image-root", tmp_path / "images", "--invalid", "skip")
    assert prepare("vqav2", tmp_path / "out.jsonl", "--folder", FIXTURES / "vqav2", *options) == 2
    told = capsys.readouterr().err
    assert re.match(r"none of (\d) eligible rows could be taken \(\1 image_missing\); check --image-root;", told)
    assert not (tmp_path / "out.jsonl").exists()


def test_too_few_is_said_not_silently_fewer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = broken_images(tmp_path / "images")
    options = ("--n", "6", "--image-root", root, "--invalid", "skip")
    assert prepare("lrv", tmp_path / "out.jsonl", "--folder", FIXTURES / "lrv", *options) == 2
    assert "only 4 of 6 could be taken: 8 rows are eligible" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_images_inside_the_rows_are_written_once_by_their_hash(tmp_path: Path) -> None:
    rows = json.loads((FIXTURES / "aokvqa/aokvqa_v1p0_train.json").read_text())
    hub = [
        {
            "image": {"bytes": (TRAIN2017 / f"{row['image_id']:012}.jpg").read_bytes(), "path": None},
            "question_id": f"{row['question_id']}{again}",
            "question": row["question"] + again,
            "choices": row["choices"],
            "correct_choice_idx": row["correct_choice_idx"],
            "direct_answers": str(row["direct_answers"]),  # the hub's copy has the list as text
            "difficult_direct_answer": False,
            "rationales": row["rationales"],
        }
        for row in rows
        for again in ("", " Really?")
    ]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", hub)
    out, images = tmp_path / "out.jsonl", tmp_path / "written"
    assert prepare("aokvqa", out, "--folder", tmp_path, "--image-dir", images) == 0
    bus = hashlib.sha256((TRAIN2017 / "000000033471.jpg").read_bytes()).hexdigest()
    assert {record["turns"][0]["images"][0]["path"] for record in records(out)} >= {f"{bus[:2]}/{bus}.jpg"}
    assert (images / bus[:2] / f"{bus}.jpg").read_bytes() == (TRAIN2017 / "000000033471.jpg").read_bytes()
    assert sorted(path.suffix for path in images.rglob("*") if path.is_file()) == [".jpg", ".jpg"]
    assert manifest(out)["images"] == {"distinct": 2, "written": 2}
    assert len(records(out)) == 4
    # again: they are there
    assert prepare("aokvqa", out, "--folder", tmp_path, "--image-dir", images) == 0
    assert manifest(out)["images"] == {"distinct": 2, "written": 0}


def test_the_two_kinds_of_image_folder_are_not_mixed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads((FIXTURES / "aokvqa/aokvqa_v1p0_train.json").read_text())[0]
    image = {"bytes": (TRAIN2017 / "000000033471.jpg").read_bytes(), "path": None}
    write_parquet(tmp_path / "in/train-0.parquet", [{**row, "image": image}])
    (root := tmp_path / "images").mkdir()
    assert "--image-dir" in refused("aokvqa", tmp_path, capsys, "--folder", tmp_path / "in", "--image-root", root)
    assert list(root.iterdir()) == []
    told = refused("lrv", tmp_path, capsys, "--folder", FIXTURES / "lrv", "--n", "1", "--image-dir", root)
    assert ".jpg): give their folder as --image-root" in told


def test_bytes_that_are_no_image_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "question_id": "q1", "question": "What?", "choices": ["a", "b"], "correct_choice_idx": 0,
        "direct_answers": "['a']", "rationales": ["Because."],
    }  # fmt: skip
    write_parquet(tmp_path / "in/train-0.parquet", [{"image": {"bytes": b"<html>gone</html>", "path": "x.jpg"}, **row}])
    images = tmp_path / "images"
    assert prepare("aokvqa", tmp_path / "out.jsonl", "--folder", tmp_path / "in", "--image-dir", images) == 2
    assert "q1: image" in (told := capsys.readouterr().err) and "is not an image" in told
    assert list(images.iterdir()) == []


# --------------------------------------------------------------------------------------------------- malformed inputs


def refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str | Path) -> str:
    """What is said when nothing can be done; nothing may have been written."""
    assert prepare(name, tmp_path / "out.jsonl", *options) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out.jsonl")]
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "file", "content", "says"),
    [
        ("alpaca", "alpaca_data.json", b'[{"instruction": "A", ', "not JSON"),
        ("alpaca", "alpaca_data.json", b'{"instruction": "A"', "alpaca_data.json:1: not a line of JSON"),
        ("alpaca", "alpaca_data.json", b"", "alpaca_data.json: not JSON"),
        ("alpaca", "alpaca_data.json", b'[{"instruction": 3}]', "row 1: field 'instruction' is 3, not text"),
        ("alpaca", "alpaca_data.json", b'[{"instruction":"\\ud800","output":"x"}]', "surrogate"),
        ("alpaca", "alpaca_data.json", b'[{"instruction":"see <image>","output":"x"}]', "1 <image> in the text but 0"),
        ("squad", "train-v1.1.json", b"[]", "expected a list of rows in ['data']"),
        ("squad", "train-v1.1.json", b'{"data": [{"title": "x"}]}', "row 1: not an article"),
        ("cosmosqa", "train.csv", b"id,context\r\n1,a,b\r\n", "train.csv:2: not the 2 columns of the head"),
        ("cosmosqa", "train.csv", b"id,label\r\n1,two\r\n", "train.csv:2: field 'label' is 'two', not a whole number"),
        (
            "strategyqa",
            "strategyqa_train.json",
            b'[{"qid":"1","question":"Is it?","answer":"yes"}]',
            "neither true nor",
        ),
        (
            "commonsenseqa",
            "train_rand_split.jsonl",
            b'{"answerKey":"F","id":"1","question":{"stem":"Where?","choices":[{"label":"A","text":"here"}]}}\n',
            "answerKey 'F' is none of the 1 choices' labels ['A']",
        ),
        ("helpsteer", "train.jsonl", b'{"prompt":"a","response":"b","helpfulness":5}\n', "train.jsonl:1: field"),
        ("helpsteer", "train.jsonl.gz", b"\x1f\x8b\x08\x00cut", "is the download complete?"),
        ("orca", "1M-GPT4-Augmented.parquet", b"PAR1 but not really", "cannot be read as parquet"),
    ],
)
def test_what_is_wrong_is_said_with_file_row_and_field(
    name: str, file: str, content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).write_bytes(content)
    told = refused(name, tmp_path, capsys, "--folder", tmp_path)
    assert says in told and "Traceback" not in told


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused("llava_instruct", tmp_path, capsys, "--folder", tmp_path, "--image-root", tmp_path)
    assert "conversation_58k.json" in told and "detail_23k.json" in told and "complex_reasoning_77k.json" in told
    assert "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K" in told and "--subset 150k | 80k" in told


def test_vqav2_without_its_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(FIXTURES / "vqav2/v2_OpenEnded_mscoco_train2014_questions.json", tmp_path)
    told = refused("vqav2", tmp_path, capsys, "--folder", tmp_path, "--image-root", IMAGES)
    assert "v2_mscoco_train2014_annotations.json" in told and "visualqa.org" in told


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--folder", "/no/such/place", "--image-root", "."], "/no/such/place: no such folder"),
        (["--folder", ".", "--type", "postive", "--image-root", "."], "--type postive: none of positive, negative"),
        (["--folder", "."], "--image-root is missing"),
        (["--folder", ".", "--image-root", "/no/such/place"], "--image-root /no/such/place: no such folder"),
        (["--folder", ".", "--image-root", ".", "--image-dir", "x"], "give one"),
        (["--folder", ".", "--image-root", ".", "--revision", "main"], "--revision and --stream are for --hub"),
    ],
)
def test_options_that_do_not_agree(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused("lrv", tmp_path, capsys, *options)


@pytest.mark.parametrize("n", ["0", "-1", "3k"])
def test_a_count_that_is_none(n: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        prepare("alpaca", tmp_path / "out.jsonl", "--folder", tmp_path, "--n", n)
    assert ended.value.code == 2 and "neither 'all' nor a whole number" in capsys.readouterr().err
