"""`align score scienceqa`: answers as LLaVA's evaluation or ScienceQA's own writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from align.benchmarks.letters import LLAVA_LETTER, read_letter
from align.cli import main


def problem(answer: int, subject: str, grade: str, *, hint: str = "", image: str | None = None, split: str = "test"):
    choices = ["a mineral", "a rock", "both"]
    asked = {"question": "Is slate a mineral?", "choices": choices, "answer": answer, "hint": hint, "image": image}
    return {**asked, "subject": subject, "grade": grade, "split": split}


@pytest.fixture
def world(tmp_path):
    problems = {
        "1": problem(1, "natural science", "grade3", image="image.png"),
        "2": problem(0, "social science", "grade8", hint="Look.", image="image.png"),
        "3": problem(2, "language science", "grade12", hint="Read."),
        "4": problem(1, "language science", "grade6"),
        "9": problem(1, "natural science", "grade6", split="val"),
    }
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["1", "2", "3", "4"], "val": ["9"]}))
    answer(tmp_path, ["B", "A. a mineral", "The answer is A.", "A rock."])
    return tmp_path


def answer(world: Path, texts: list[str], first: int = 1) -> None:
    rows = [{"question_id": str(i), "prompt": "", "text": text} for i, text in enumerate(texts, first)]
    (world / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def arguments(world: Path, answers: str = "answers.jsonl") -> list[str]:
    files = ("--answers", answers, "--questions", "problems.json", "--labels", "pid_splits.json")
    return ["score", "scienceqa", *(str(world / f) if "." in f else f for f in files), "--draws", "100"]


def score(world: Path, capsys, *more: str, answers: str = "answers.jsonl") -> tuple[dict, list[str]]:
    assert main([*arguments(world, answers), "--json", *more]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, found["warnings"]


def refused(world: Path, capsys) -> str:
    assert main(arguments(world)) == 2
    return capsys.readouterr().err


def test_accuracy_and_the_classes_of_the_papers_table(world, capsys):
    metrics, warnings = score(world, capsys)
    values = {name: (metric["value"], metric["n"]) for name, metric in metrics.items()}
    assert values == {
        "accuracy": (0.75, 4),
        "accuracy_img": (1.0, 2),
        "accuracy_txt": (0.5, 2),  # 2 and 3 have a hint
        "accuracy_no": (1.0, 1),
        "accuracy_nat": (1.0, 1),
        "accuracy_soc": (1.0, 1),
        "accuracy_lan": (0.5, 2),
        "accuracy_g1_6": (1.0, 2),
        "accuracy_g7_12": (0.5, 2),
        "accuracy_without_img": (0.5, 2),
    }
    assert warnings == []


def test_llavas_result_file_is_read_from_its_texts_and_an_index_where_there_is_none(world, capsys):
    results = {"acc": 1.0, "results": {"1": 1, "2": 0, "3": 2, "4": -1}, "outputs": {"3": "The answer is A."}}
    (world / "result.json").write_text(json.dumps(results))
    metrics, _ = score(world, capsys, "--least-coverage", "0.5", answers="result.json")
    assert metrics["accuracy"]["value"] == pytest.approx(2 / 3)  # 3's text wins over its index
    assert metrics["accuracy"]["n_failed"] == 1  # -1: LLaVA could read none


def test_what_names_no_option_has_no_score_and_counts_as_wrong_in_llavas_reading(world, capsys):
    answer(world, ["(B)", "It could be A or B.", "", "B"])
    metrics, warnings = score(world, capsys, "--least-coverage", "0.5")
    assert (metrics["accuracy"]["value"], metrics["accuracy"]["n_failed"]) == (1.0, 2)
    assert "2 of 4 answers name no option, or two" in warnings[0]
    metrics, _ = score(world, capsys, "--parser", "official", "--least-coverage", "0.5")
    assert metrics["accuracy"]["value"] == pytest.approx(1 / 3)  # LLaVA reads no "(B)"
    assert metrics["accuracy"]["n_failed"] == 1  # an empty answer is one in every reading


def test_a_missing_answer_is_a_failure_and_another_split_is_said(world, capsys):
    answer(world, ["B", "A", "C"])
    metrics, _ = score(world, capsys, "--least-coverage", "0.5")
    assert (metrics["accuracy"]["n"], metrics["accuracy"]["n_failed"]) == (3, 1)
    answer(world, ["B"], first=9)
    metrics, warnings = score(world, capsys)
    assert metrics["accuracy"]["n"] == 1 and warnings == ["scored on the split val: 1 questions"]


def test_faults_name_file_and_line(world, capsys):
    answer(world, ["B", "A", "C", "B", "A"])
    assert "answers.jsonl:5: its question is not in problems.json" in refused(world, capsys)
    rows = [{"question_id": "1", "text": "B"}, {"question_id": 1, "text": "B"}, {"question_id": "9", "text": "B"}]
    (world / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert "answers.jsonl:2: `question_id` 1 occurs twice, first in line 1" in refused(world, capsys)
    (world / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    assert "answers.jsonl:2: its question is not in the split test" in refused(world, capsys)
    (world / "answers.jsonl").write_text('{"id": "1", "answer": "B"}\n')
    assert "answers.jsonl:1: no field `question_id`; it has id, answer" in refused(world, capsys)
    answer(world, ["B"])
    problems = json.loads((world / "problems.json").read_text())
    problems["1"]["answer"] = 3
    (world / "problems.json").write_text(json.dumps(problems))
    assert "problems.json:1: `answer`: expected the index of one of 3 choices, found 3" in refused(world, capsys)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("B", 1),
        ("b.", 1),
        ("(B)", 1),
        ("B) blue, since the sky is", 1),
        ("The answer is B.", 1),
        ("The correct answer is (b)", 1),
        ("Answer: B", 1),
        ("The blue.", 1),
        ("A. red. The answer is B.", None),  # two are named
        ("The answer is A. No, the answer is B.", None),
        ("The answer is a colour.", None),  # an article, no letter
        ("E", None),  # there is no such option
        ("blue or red", None),
        ("", None),
    ],
)
def test_letters(text, index):
    assert read_letter(text, ["red", "blue", "green"]) == index


@pytest.mark.skipif("MMALIGN_REAL_DATA" not in os.environ, reason="MMALIGN_REAL_DATA names no folder of real files")
@pytest.mark.parametrize(("name", "others"), [("llava_13b_v0.json", {"3247"}), ("llava_lcs_558k.json", set())])
def test_llavas_own_reading_of_its_published_outputs(name, others):
    """4,241 outputs in LLaVA's repository, and the index that its evaluation made of each.

    Of 3247 it says D, which the problem does not have; LLaVA's evaluation then drew an option at random.
    """
    path = Path(os.environ["MMALIGN_REAL_DATA"]) / "scienceqa" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    recorded = json.loads(path.read_text())
    five = ["1", "2", "3", "4", "5"]
    read = {key: read_letter(text, five, LLAVA_LETTER) for key, text in recorded["outputs"].items()}
    indices = {key: -1 if index is None else index for key, index in read.items()}
    assert len(indices) == 4241
    assert {key for key, index in indices.items() if index != recorded["results"][key]} == others
