"""`align score pope`: answers in POPE's own files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from align.cli import main

ASKED = "\nAnswer the question using a single word or phrase."
CAT, DOG = "Is there a cat in the image?", "Is there a dog in the image?"


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def world(tmp_path):
    """Two splits of four questions about two images; labels in other numbers and another order."""
    truth = {("1.jpg", CAT): "yes", ("1.jpg", DOG): "no", ("2.jpg", CAT): "yes", ("2.jpg", DOG): "no"}
    questions = [
        {"question_id": 10 * s + i, "image": image, "text": text + ASKED, "category": split}
        for s, split in enumerate(("random", "adversarial"))
        for i, (image, text) in enumerate(truth)
    ]
    write(tmp_path / "questions.jsonl", questions)
    for split in ("random", "adversarial"):
        labels = [{"question_id": n, "image": i, "text": t, "label": a} for n, ((i, t), a) in enumerate(truth.items())]
        write(tmp_path / f"coco_pope_{split}.json", labels[::-1])
    said = ["Yes", "No", "Yes", "Yes", "Yes, there is a cat.", "No, there is no dog.", "No", "No"]
    answers = [
        {"question_id": q["question_id"], "prompt": q["text"], "text": text}
        for q, text in zip(questions, said, strict=True)
    ]
    write(tmp_path / "answers.jsonl", answers)
    return tmp_path


def score(world: Path, capsys, *more: str) -> tuple[dict, dict]:
    files = ("--answers", world / "answers.jsonl", "--questions", world / "questions.jsonl", "--labels", world)
    assert main(["score", "pope", *map(str, files), "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, found


def refused(world: Path, capsys) -> str:
    files = ("--answers", world / "answers.jsonl", "--questions", world / "questions.jsonl", "--labels", world)
    assert main(["score", "pope", *map(str, files)]) == 2
    return capsys.readouterr().err


def change(path: Path, at: int, **fields) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[at] |= fields
    write(path, rows)


def test_labels_are_joined_on_image_and_question_and_verbose_answers_count(world, capsys):
    metrics, found = score(world, capsys)
    # random: 2 hits, 1 false alarm; adversarial: 1 hit, 1 miss, no false alarm
    assert metrics["f1_random"]["value"] == pytest.approx(0.8)
    assert metrics["f1_adversarial"]["value"] == pytest.approx(2 / 3)
    assert metrics["f1"]["value"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["yes_ratio_random"]["value"] == 0.75  # of what was said, not of what is true
    assert (metrics["f1"]["n"], metrics["f1"]["n_failed"], found["warnings"]) == (8, 0, [])
    assert found["metrics"][0]["name"] == "f1"


def test_an_empty_answer_and_a_missing_one_are_failures_not_answers(world, capsys):
    change(world / "answers.jsonl", 0, text=" ")
    change(world / "answers.jsonl", 1, text="<html><body>503 Service Unavailable</body></html>")
    lines = (world / "answers.jsonl").read_text().splitlines()
    (world / "answers.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    metrics, _ = score(world, capsys, "--least-coverage", "0.5")
    assert (metrics["accuracy"]["n"], metrics["accuracy"]["n_failed"]) == (5, 3)
    metrics, found = score(world, capsys)
    assert metrics["f1"]["value"] is None and "3 of 8 answers have no score" in found["warnings"][-1]


def test_the_strict_reading_gives_no_score_to_what_says_neither(world, capsys):
    change(world / "answers.jsonl", 0, text="A cat sits there.")
    metrics, found = score(world, capsys)
    assert metrics["accuracy"]["n_failed"] == 0 and "1 of 8 answers do not begin with yes or no" in found["warnings"][0]
    metrics, _ = score(world, capsys, "--parser", "strict")
    assert metrics["accuracy"]["n_failed"] == 1


def test_another_version_of_the_labels_is_said(world, capsys):
    more = {"question_id": 9, "image": "3.jpg", "text": CAT, "label": "no"}
    with (world / "coco_pope_random.json").open("a") as file:
        file.write(json.dumps(more) + "\n")
    _, found = score(world, capsys)
    assert "random: 4 questions were asked, the labels have 5" in found["warnings"][0]


@pytest.mark.parametrize(
    ("file", "at", "fields", "said"),
    [
        ("answers.jsonl", 1, {"question_id": 77}, "answers.jsonl:2: answers a question that is not asked"),
        ("answers.jsonl", 1, {"question_id": 0}, "answers.jsonl:2: `question_id` 0 occurs twice, first in line 1"),
        ("answers.jsonl", 1, {"prompt": CAT + ASKED}, "answers.jsonl:2: answers another question than"),
        ("answers.jsonl", 1, {"text": 1}, "answers.jsonl:2: `text`: expected text, found 1"),
        ("questions.jsonl", 1, {"image": "9.jpg"}, "questions.jsonl:2: its labels hold no such image and question"),
        ("questions.jsonl", 1, {"category": "hard"}, "questions of the split 'hard' have no file of labels"),
        ("coco_pope_random.json", 1, {"label": "maybe"}, "coco_pope_random.json:2: `label`: expected yes or no"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_their_line(world, capsys, file, at, fields, said):
    change(world / file, at, **fields)
    assert said in refused(world, capsys)


def test_wrong_field_names_and_web_pages_are_refused(world, capsys):
    write(world / "answers.jsonl", [{"id": 1, "answer": "yes"}])
    assert "answers.jsonl:1: no field `question_id`; it has id, answer" in refused(world, capsys)
    (world / "answers.jsonl").write_text("<html>502 Bad Gateway</html>")
    assert "answers.jsonl:1: " in refused(world, capsys)


@pytest.mark.skipif("MMALIGN_REAL_DATA" not in os.environ, reason="MMALIGN_REAL_DATA names no folder of real files")
@pytest.mark.parametrize("parser", ["official", "strict"])
def test_the_published_number_of_llava_13b(capsys, parser):
    """LLaVA-1.5 (arXiv:2310.03744), table 4: POPE 85.9; the splits as its evaluation prints them."""
    pope = Path(os.environ["MMALIGN_REAL_DATA"]) / "pope"
    files = (pope / "llava-v1.5-13b_answers.jsonl", pope / "llava_pope_test.jsonl", pope)
    options = zip(("--answers", "--questions", "--labels"), files, strict=True)
    assert main(["score", "pope", "--json", "--parser", parser, *(str(x) for pair in options for x in pair)]) == 0
    metrics = {m["name"]: m["value"] for m in json.loads(capsys.readouterr().out)["metrics"]}
    named = ("f1_random", "f1_popular", "f1_adversarial")
    assert [round(metrics[name], 4) for name in named] == [0.8714, 0.8625, 0.8446]
    assert int(metrics["f1"] * 1000) == 859
