"""Benchmarks out of their own published files: rows of each layout, faults, and the stage on a real model."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from align.benchmarks.ai2d import AI2D
from align.benchmarks.gqa import GQA
from align.benchmarks.mmbench import MMBENCH
from align.benchmarks.mme import MME
from align.benchmarks.pope import POPE
from align.benchmarks.published import Source
from align.benchmarks.realworldqa import REALWORLDQA, REALWORLDQA_RETEMPLATED
from align.benchmarks.rows import Row
from align.benchmarks.scienceqa import SCIENCEQA, SCIENCEQA_IMG
from align.benchmarks.suite import Suite
from align.benchmarks.unicorn import OODCV_VQA, SKETCHY_VQA
from align.evaluate.plan import load_exams
from align.settings import Evaluate, Prompts
from annotate.errors import UserError

CAT = "Is there a cat in the image?"


def png(color: str, side: int = 32) -> bytes:
    stream = BytesIO()
    Pillow.new("RGB", (side, side), color).save(stream, "PNG")
    return stream.getvalue()


def image(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(color))
    return path


def lines(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def whole(path: Path, value: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return str(path)


def rows_of(suite: Suite, **files: str) -> list[Row]:
    assert suite.read is not None
    rows = list(suite.read(Source(files=files)))
    assert [suite.fault(row) for row in rows] == [""] * len(rows)
    return rows


def asked(row: Row) -> str:
    return row.prompt.turns[0].text


# ------------------------------------------------------------------------------------------------------------- layouts


def test_pope_with_its_own_questions_and_from_labels_alone(tmp_path):
    label = {"question_id": 1, "image": "1.jpg", "text": CAT, "label": "yes"}
    for split in ("random", "popular"):
        lines(tmp_path / "pope" / f"coco_pope_{split}.json", label)
    rows = rows_of(POPE, labels=str(tmp_path / "pope"))
    assert [row.id for row in rows] == ["random/1", "popular/1"]
    assert asked(rows[0]) == f"<image>\n{CAT}\nAnswer the question using a single word or phrase."
    question = {"question_id": 7, "image": "1.jpg", "text": f"{CAT}\nYes or no?", "category": "popular"}
    (row,) = rows_of(POPE, labels=str(tmp_path / "pope"), questions=lines(tmp_path / "q.jsonl", question))
    assert (row.id, row.category, row.questions[0].polarity) == ("7", "popular", "positive")
    assert asked(row) == f"<image>\n{CAT}\nYes or no?"
    assert [m.name for m in POPE.asking([row]).measures][-1] == "yes_ratio_popular"
    other = lines(tmp_path / "q.jsonl", {**question, "image": "2.jpg"})
    with pytest.raises(UserError, match=r"q.jsonl:1: its labels hold no such image and question"):
        rows_of(POPE, labels=str(tmp_path / "pope"), questions=other)


def mme(folder: Path, task: str, stem: str, *, below: bool = False) -> None:
    texts, images = (
        (folder / task / "questions_answers_YN", folder / task / "images") if below else (folder / task,) * 2
    )
    image(images / f"{stem}.png")
    texts.mkdir(exist_ok=True)
    (texts / f"{stem}.txt").write_text(f"{CAT} Please answer yes or no.\tYes\nIs there a dog?\tNo\n")


def test_mme_in_both_layouts_of_its_folder(tmp_path):
    mme(tmp_path, "existence", "0001")
    mme(tmp_path, "posters", "tt1", below=True)
    rows = rows_of(MME, folder=str(tmp_path))
    assert [(row.id, row.group, row.questions[0].polarity) for row in rows] == [
        ("existence/0001/1", "existence/0001", "positive"),
        ("existence/0001/2", "existence/0001", "negative"),
        ("posters/tt1/1", "posters/tt1", "positive"),
        ("posters/tt1/2", "posters/tt1", "negative"),
    ]
    assert [row.prompt.images[0].path for row in rows[1:3]] == ["existence/0001.png", "posters/images/tt1.png"]
    (tmp_path / "existence" / "0001.txt").write_text("Is there a cat?\tYes\n")
    with pytest.raises(UserError, match="existence/0001: has 1 of its two questions"):
        rows_of(MME, folder=str(tmp_path))


def test_mmbench_with_its_images_in_the_table_each_once(tmp_path):
    head = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
    cells = [
        [7, "Which colour?", "Look.", "red", "blue", "", "", "A", "colour", base64.b64encode(png("red")).decode()],
        [1_000_007, "Which colour?", "nan", "blue", "red", "", "", "B", "colour", "7"],  # the picture of row 7
    ]
    table = tmp_path / "mmbench_dev.tsv"
    table.write_text("\n".join("\t".join(map(str, row)) for row in [head, *cells]) + "\n")
    rows = rows_of(MMBENCH, questions=str(table))
    assert asked(rows[0]) == (
        "<image>\nLook.\nWhich colour?\nA. red\nB. blue\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [(row.id, row.group) for row in rows] == [("7", "7/2"), ("1000007", "7/2")]
    assert rows[0].prompt.images == rows[1].prompt.images
    cut = tmp_path / "cut.tsv"
    cut.write_text(table.read_text().replace(base64.b64encode(png("red")).decode(), "iVBORw0KGgo*" * 8))
    with pytest.raises(UserError, match=r"cut.tsv:2: `image`: is neither a path nor base64; was it cut off"):
        rows_of(MMBENCH, questions=str(cut))
    small = base64.b64encode(png("red", 4)).decode()
    table.write_text(table.read_text().replace(base64.b64encode(png("red")).decode(), small))
    assert len(small) == 100
    assert rows_of(MMBENCH, questions=str(table))[0].prompt.images[0].path.endswith(".png")
    assert MMBENCH.score is not None
    score = [MMBENCH.score(row, [said]).value["accuracy"] for row, said in zip(rows, ["A", "blue"], strict=True)]
    assert score == [1.0, 0.0]


def test_scienceqa_with_and_without_pictures(tmp_path):
    problem = {"question": "Is it?", "choices": ["yes", "no"], "answer": 1, "hint": "A hint.", "grade": "grade2"}
    problems = {
        "4": {**problem, "image": "image.png", "split": "test"},
        "5": {**problem, "image": None, "split": "test"},
    }
    problems["9"] = {**problem, "image": None, "split": "val"}
    files = {"questions": whole(tmp_path / "problems.json", problems), "images": str(tmp_path / "images")}
    image(tmp_path / "images" / "test" / "4" / "image.png")
    rows = rows_of(SCIENCEQA, **files)
    assert [(row.id, [i.path for i in row.prompt.images], row.category) for row in rows] == [
        ("4", ["test/4/image.png"], "img txt g1_6"),
        ("5", [], "txt g1_6"),
    ]
    assert asked(rows[1]).startswith("A hint.\nIs it?\nA. yes\nB. no\n")
    assert [row.id for row in rows_of(SCIENCEQA_IMG, **files)] == ["4"]
    assert [row.id for row in rows_of(SCIENCEQA, **files, split="val")] == ["9"]


def test_the_short_ones(tmp_path):
    (row,) = rows_of(
        GQA, questions=whole(tmp_path / "gqa.json", {"1": {"question": "Is it?", "imageId": "n1", "answer": "no"}})
    )
    assert (row.prompt.images[0].path, row.questions[0].answer) == ("n1.jpg", "no")
    real = lines(
        tmp_path / "r.jsonl", {"image": "0.webp", "question": "Which?\nA. a\nB. b\nPlease answer.", "answer": "B"}
    )
    assert asked(rows_of(REALWORLDQA, questions=real)[0]) == "<image>\nWhich?\nA. a\nB. b\nPlease answer."
    assert asked(rows_of(REALWORLDQA_RETEMPLATED, questions=real)[0]) == (
        "<image>\nWhich?\nA. a\nB. b\nAnswer with the option's letter from the given choices directly."
    )
    sketch = [{"image_path": "s.jpg", "question": "Is this a bird?", "answer": "Yes"}]
    (row,) = rows_of(SKETCHY_VQA, questions=whole(tmp_path / "s.json", sketch))
    assert (row.id, row.prompt.images[0].path, row.questions[0].answer) == ("s.jpg", "s.jpg", "yes")
    odd = [{"image": "a.jpg", "question": "How many?", "text_answer": "2", "answer": "B"}]
    (row,) = rows_of(OODCV_VQA, questions=whole(tmp_path / "o.json", odd))
    assert (row.id, row.category) == ("a.jpg", "number")
    twice = lines(
        tmp_path / "a.jsonl", *[{"id": 1, "question": "?", "options": ["a", "b"], "answer": 0, "image": "1.png"}] * 2
    )
    with pytest.raises(UserError, match=r"a.jsonl:2: id 1 occurs twice, first in .*a.jsonl:1"):
        rows_of(AI2D, questions=twice)


# --------------------------------------------------------------------------------------------- a recipe that names them


def refused(suites: tuple[str, ...], **files: dict[str, str]) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_exams(Evaluate(suites=suites, files=files), Prompts())
    return list(caught.value.faults)


def test_all_faults_of_keys_and_files_are_told_at_once(tmp_path):
    mme(tmp_path / "mme", "existence", "0001")
    (tmp_path / "mme" / "existence" / "0001.png").unlink()
    image(tmp_path / "mme" / "posters" / "tt1.png").write_bytes(b"<html>")
    (tmp_path / "mme" / "posters" / "tt1.txt").write_text("Is it?\tYes\nIs it not?\tNo\n")
    found = refused(
        ("mme", "pope", "gqa", "choice", "ai2d"),
        mme={"folder": str(tmp_path / "mme")},
        pope={"label": str(tmp_path), "images": str(tmp_path / "none")},
        gqa={"hub": str(tmp_path / "no_such_data_set"), "splits": "test"},
        choice={"questions": str(tmp_path)},
        ai2d={"hub": str(tmp_path / "no_such_data_set")},
        mm_bench={"questions": "x.tsv"},
    )
    for said in (
        "evaluate.files: no benchmark 'mm_bench'; did you mean 'mmbench'?",
        "item existence/0001/1: image 'existence/0001.jpg': no such file below ",
        "item posters/tt1/2: image 'posters/tt1.png': ",
        "evaluate.files.pope.labels: missing",
        "evaluate.files.pope.label: unknown; known: questions, labels, images; or of a data set of the hub: hub, ",
        "evaluate.files.gqa.splits: unknown",
        "evaluate.files.choice: choice is read from <folder>/choice.jsonl alone; take the key out",
        "no_such_data_set (split test): cannot be loaded",
    ):
        assert any(said in fault for fault in found), (said, found)


def test_images_that_are_not_there_name_the_key_for_their_folder_and_long_names_are_cut(tmp_path):
    rows = [{"id": i, "image": name, "question": "Is it?", "text_answer": "yes"} for i, name in
            enumerate(["gone.jpg", "a/" * 500 + "b.jpg"])]  # fmt: skip
    (tmp_path / "images").mkdir()
    file = {"questions": whole(tmp_path / "o.json", rows), "images": str(tmp_path / "images")}
    assert max(map(len, refused(("oodcv_vqa",), oodcv_vqa=file))) < 300
    question = {"index": 7, "question": "Which?", "A": "red", "B": "blue", "answer": "A", "image": "gone.jpg"}
    found = refused(("mmbench",), mmbench={"questions": lines(tmp_path / "m.jsonl", question)})
    assert found[0].endswith(
        "image 'gone.jpg': no such file below prompts.image_root (.); name the folder of the images: "
        "`prompts: {image_root: DIR}`, or `evaluate.files.mmbench.images: DIR`"
    )


def test_hashes_are_those_of_the_files_and_a_limit_keeps_pairs_whole(tmp_path):
    from hashlib import sha256

    mme(tmp_path, "existence", "0001")
    mme(tmp_path, "existence", "0002")
    (exam,) = load_exams(Evaluate(suites=("mme",), files={"mme": {"folder": str(tmp_path)}}, limit=1), Prompts())
    row, other = exam.rows
    assert row.group == other.group == "existence/0001"
    assert row.prompt.images[0].sha256 == sha256(png("red")).hexdigest()
    assert exam.root == tmp_path


# ------------------------------------------------------------------------------------------------- the stage on a model


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A random tiny LLaVA; POPE's labels and images, and a folder as `datasets` saves MME, its images within."""
    datasets = pytest.importorskip("datasets")
    tiny = pytest.importorskip("tiny_llava")
    folder = tmp_path_factory.mktemp("published")
    label = [{"question_id": i, "image": f"{i}.png", "text": CAT, "label": ("yes", "no")[i]} for i in (0, 1)]
    lines(folder / "pope" / "coco_pope_random.json", *label)
    for i, color in enumerate(("red", "blue")):
        image(folder / "val2014" / f"{i}.png", color)
    rows = [
        {"question_id": "existence/1.png", "image": {"bytes": png("green"), "path": "1.png"}, "question": text,
         "answer": truth, "category": "existence"}
        for text, truth in ((CAT, "Yes"), ("Is there a dog?", "No"))
    ]  # fmt: skip
    features = datasets.Features(
        {
            **dict.fromkeys(("question_id", "question", "answer", "category"), datasets.Value("string")),
            "image": datasets.Image(),
        }
    )
    made = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict({"test": made}).save_to_disk(str(folder / "mme"))
    problem = {"question": "Is it?", "choices": ["yes", "no"], "answer": 1, "hint": "", "image": None, "split": "test"}
    whole(folder / "problems.json", {"1": problem})
    (folder / "none").mkdir()
    files = {
        "pope": {"labels": str(folder / "pope"), "images": str(folder / "val2014")},
        "mme": {"hub": str(folder / "mme"), "split": "test"},
        "scienceqa": {"questions": str(folder / "problems.json"), "images": str(folder / "none")},
    }
    block = {"suites": list(files), "files": files, "max_new_tokens": 3, "batch_size": 2}
    recipe = folder / "published.yaml"
    recipe.write_text(
        f"name: published\nmodel: {tiny.save_tiny_llava(folder / 'vlm')}\nthreads: 1\nruns: {folder / 'runs'}\n"
        f"evaluate: {json.dumps(block)}\n"
    )
    return folder, recipe


def test_a_model_answers_published_files_and_a_data_set_with_images_within(world, capsys):
    from align.cli import main

    folder, recipe = world
    assert main(["evaluate", str(recipe)]) == 0, capsys.readouterr().err
    stage = folder / "runs" / "published" / "evaluate"
    items = [json.loads(line) for line in (stage / "items.jsonl").read_text().splitlines()]
    assert [item["id"] for item in items] == [
        "random/0", "random/1", "existence/1.png/1", "existence/1.png/2", "1",
    ]  # fmt: skip
    metrics = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert {"score_existence", "accuracy_plus_existence", "accuracy"} <= {
        m["name"] for m in metrics if m["suite"] == "mme"
    }
    assert (stage / "failures.jsonl").read_text() == ""
    verdicts = json.loads((stage / "verdicts.json").read_text())
    (told,) = (w for w in verdicts["warnings"] if w.startswith("mme: no total"))
    assert told.startswith("mme: no total perception: tasks count, position, ")
    read = {c["suite"]: c["ok"] for c in verdicts["controls"] if c["name"].startswith("share of answers that could")}
    assert list(read) == ["pope", "mme", "scienceqa"] and read["pope"] is False  # it is random
    assert main(["evaluate", str(recipe)]) == 0  # nothing is done again
    assert "evaluate" in capsys.readouterr().out
