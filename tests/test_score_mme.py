"""`align score mme`: a folder of answers, one file per task, as MME's own evaluation reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.benchmarks.mme import COGNITION, PERCEPTION, TASKS
from align.cli import main

DOG = "Is there a dog in this image? Please answer yes or no."
CAT = "Is there a cat in this image? Please answer yes or no."


def write(folder: Path, task: str, answers: list[str]) -> None:
    """Two images of a dog: a question whose truth is yes and one whose truth is no about each, answered in order."""
    asked = [("1.jpg", DOG, "Yes"), ("1.jpg", CAT, "No"), ("2.jpg", DOG, "Yes"), ("2.jpg", CAT, "No")]
    folder.mkdir(exist_ok=True)
    rows = ["\t".join([*question, answer]) for question, answer in zip(asked, answers, strict=True)]
    (folder / f"{task}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


def score(folder: Path, capsys, *more: str) -> tuple[dict, list[str]]:
    assert main(["score", "mme", "--answers", str(folder), "--json", "--draws", "100", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, found["warnings"]


def refused(folder: Path, capsys) -> str:
    assert main(["score", "mme", "--answers", str(folder)]) == 2
    return capsys.readouterr().err


def test_a_score_is_accuracy_and_accuracy_plus_and_sums_are_over_tasks(tmp_path, capsys):
    for task in TASKS:
        write(tmp_path, task, ["Yes", "No", "Yes", "No"])
    write(tmp_path, "count", ["Yes, one.", "No, none.", "Yes.", "yes"])  # 3 of 4 right, 1 of 2 pairs
    write(tmp_path, "landmark", ["No", "Yes", "No", "Yes"])  # all wrong
    write(tmp_path, "code_reasoning", ["Yes", "Yes", "Yes", "Yes"])  # half right, no pair
    metrics, warnings = score(tmp_path, capsys)
    assert next(iter(metrics)) == "perception"
    assert metrics["score_count"]["value"] == pytest.approx(75 + 50)
    assert metrics["accuracy_plus_code_reasoning"]["value"] == 0
    assert metrics["perception"]["value"] == pytest.approx(8 * 200 + 125 + 0)
    assert metrics["perception_without_landmark_artwork"]["value"] == pytest.approx(7 * 200 + 125)
    assert metrics["cognition"]["value"] == pytest.approx(3 * 200 + 50)
    assert (metrics["perception"]["n"], metrics["perception"]["n_failed"]) == (40, 0)
    assert metrics["perception"]["low"] < metrics["perception"]["value"] < metrics["perception"]["high"]
    assert "existence: 2 images, MME's release has 30" in warnings[0]  # a part is said to be one


def test_answers_are_read_by_their_first_four_letters(tmp_path, capsys):
    # " NO" is no; "I don't know" is neither, so wrong; the last begins with neither, though it says no
    write(tmp_path, "existence", ["yes", " NO", "I don't know", "The answer is no"])
    metrics, warnings = score(tmp_path, capsys)
    assert (metrics["accuracy_existence"]["value"], metrics["accuracy_plus_existence"]["value"]) == (0.5, 0.5)
    assert any("2 of 4 answers say neither yes nor no" in warning for warning in warnings)
    metrics, _ = score(tmp_path, capsys, "--parser", "strict", "--least-coverage", "0.5")
    found = metrics["accuracy_existence"]
    assert (found["value"], found["n"], found["n_failed"]) == (1, 2, 2)


def test_an_empty_answer_is_a_failure_and_its_pair_is_in_no_accuracy_plus(tmp_path, capsys):
    write(tmp_path, "existence", ["", "No", "Yes", "No"])
    metrics, _ = score(tmp_path, capsys, "--least-coverage", "0.5")
    assert (metrics["accuracy_existence"]["n"], metrics["accuracy_existence"]["n_failed"]) == (3, 1)
    assert metrics["accuracy_plus_existence"]["value"] == 1  # of the one pair that is whole
    metrics, warnings = score(tmp_path, capsys)
    assert metrics["score_existence"]["value"] is None and "1 of 4 answers have no score" in warnings[-1]


def test_without_some_tasks_there_is_no_sum_of_them(tmp_path, capsys):
    for task in (*PERCEPTION, *COGNITION):
        if task not in ("landmark", "artwork", "text_translation"):
            write(tmp_path, task, ["Yes", "No", "Yes", "No"])
    metrics, warnings = score(tmp_path, capsys)
    assert next(iter(metrics)) == "perception_without_landmark_artwork"
    assert "perception" not in metrics and "cognition" not in metrics
    assert "no answers for landmark, artwork, text_translation" in warnings[0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1.jpg\tIs it?\tYes\tYes"], "image '1.jpg' has 1 of its two questions (line 1)"),
        (["1.jpg\tIs it?\tYes\tYes"] * 2, "existence.txt:2: answers the same question as line 1"),
        (["1.jpg\tIs it?\tYes\tYes,", "it is."], "existence.txt:2: expected image, question, truth"),
        (["1.jpg\tIs it?\tmaybe\tYes"], "existence.txt:1: expected image, question, truth (yes or no)"),
        (["<html>502 Bad Gateway</html>"], "existence.txt:1: expected image, question, truth"),
        ([""], "existence.txt: no answers in it"),
    ],
)
def test_files_that_are_no_answers_are_refused_with_their_line(tmp_path, capsys, rows, said):
    (tmp_path / "existence.txt").write_text("\n".join(rows))
    assert said in refused(tmp_path, capsys)


def test_a_file_of_no_task_and_an_empty_folder_are_refused(tmp_path, capsys):
    assert "no answers here; expected files such as existence.txt" in refused(tmp_path, capsys)
    write(tmp_path, "existance", ["Yes", "No", "Yes", "No"])
    assert "existance.txt: is no task of MME; expected existence.txt" in refused(tmp_path, capsys)
