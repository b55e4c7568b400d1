"""`align score llava_bench`: reviews of a reference and a model, graded together."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from align.cli import main

FIRST = [("conv", 8, 6), ("conv", 10, 9), ("detail", 8, 4), ("complex", 9, 9)]
SECOND = [("conv", 8, 8), ("conv", 10, 10), ("detail", 8, 4), ("complex", 9, 9)]
"""Category, the reference's grade, the model's; two runs of one judge."""


def review(question: int, category: str, first: float, second: float, **fields) -> dict:
    return {
        "id": question + 1,
        "question_id": question,
        "answer1_id": f"reference{question}",
        "answer2_id": f"model{question}",
        "category": f"llava_bench_{category}",
        "content": f"{first} {second}\nThe second is shorter.",
        "tuple": [float(first), float(second)],
        **fields,
    }


def run_of(grades: list[tuple[str, int, int]]) -> list[dict]:
    return [review(i, *grade) for i, grade in enumerate(grades)]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def score(tmp_path: Path, capsys, *runs: list[dict], more: tuple[str, ...] = ()) -> tuple[dict, str]:
    paths = [write(tmp_path / f"run{i}.jsonl", rows) for i, rows in enumerate(runs, 1)]
    assert main(["score", "llava_bench", "--json", "--draws", "200", "--judgments", *paths, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, "\n".join(found["warnings"])


def refused(tmp_path: Path, capsys, rows: list[dict], *more: str) -> str:
    path = write(tmp_path / "run.jsonl", rows)
    assert main(["score", "llava_bench", "--judgments", path, *more]) == 2
    return capsys.readouterr().err


def test_the_score_is_the_ratio_of_the_two_mean_grades(tmp_path, capsys):
    metrics, warnings = score(tmp_path, capsys, run_of(FIRST))
    assert {name: m["value"] for name, m in metrics.items()} == {
        "score": pytest.approx(100 * 28 / 35),
        "score_conv": pytest.approx(100 * 15 / 18),
        "score_detail": 50.0,
        "score_complex": 100.0,
        "model_grade": 7.0,
        "reference_grade": 8.75,
    }
    assert (metrics["score"]["n"], metrics["score"]["n_failed"], warnings) == (4, 0, "")


def test_several_files_are_runs_of_the_judge(tmp_path, capsys):
    metrics, warnings = score(tmp_path, capsys, run_of(FIRST), run_of(SECOND))
    one, two = 100 * 28 / 35, 100 * 31 / 35
    assert metrics["score"]["value"] == pytest.approx((one + two) / 2)
    assert metrics["judge_sd"]["value"] == pytest.approx((two - one) / 2**0.5)
    assert (metrics["score"]["n"], warnings) == (8, "")


def test_a_review_without_two_grades_is_a_failure_of_both(tmp_path, capsys):
    rows = run_of(FIRST)
    rows[2] |= {"content": "Assistant 1 deserves 8 and Assistant 2 deserves 6", "tuple": [1.0, 8.0]}
    metrics, warnings = score(tmp_path, capsys, rows, more=("--least-coverage", "0.5"))
    assert metrics["score"]["value"] == pytest.approx(100 * 24 / 27)
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (3, 1)
    assert "1 of 4 stored tuples are not what the review says" in warnings


def test_no_number_where_every_review_failed(tmp_path, capsys):
    rows = [row | {"content": "", "tuple": [-1, -1]} for row in run_of(FIRST)]
    metrics, warnings = score(tmp_path, capsys, rows)
    assert {m["value"] for m in metrics.values()} == {None} and metrics["score"]["n_failed"] == 4
    assert "score: no number: 4 of 4 answers have no score" in warnings
    metrics, warnings = score(tmp_path, capsys, run_of(FIRST), rows, more=("--least-coverage", "0.5"))
    assert metrics["score"]["value"] == pytest.approx(80.0) and metrics["score"]["n"] == 4


def test_a_missing_review_is_a_failure_and_a_repeated_one_counts_once(tmp_path, capsys):
    again = [*run_of(SECOND)[:3], review(0, "conv", 8, 2)]
    metrics, warnings = score(tmp_path, capsys, run_of(FIRST), again)
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (7, 1)
    assert metrics["score_conv"]["value"] == pytest.approx((100 * 15 / 18 + 100 * 12 / 18) / 2)
    assert "1 of 4 reviews in run2.jsonl came again; the last one counts" in warnings
    assert "1 of 8 reviews are missing; they count as failed" in warnings


def test_the_length_of_the_answers_stands_beside_the_score(tmp_path, capsys):
    answers = [{"question_id": i, "text": "x" * (i + 1), "answer_id": f"model{i}"} for i in range(4)]
    given = write(tmp_path / "answers.jsonl", answers)
    metrics, warnings = score(tmp_path, capsys, run_of(FIRST), more=("--answers", given))
    assert metrics["answer_chars"]["value"] == 2.5 and warnings == ""
    answers[1]["answer_id"] = "of another model"
    given = write(tmp_path / "answers.jsonl", answers)
    _, warnings = score(tmp_path, capsys, run_of(FIRST), more=("--answers", given))
    assert "1 of 4 reviews are not of the answers of --answers" in warnings


def test_runs_over_other_answers_are_no_repeats(tmp_path, capsys):
    other = [row | {"answer2_id": "another"} for row in run_of(SECOND)]
    _, warnings = score(tmp_path, capsys, run_of(FIRST), other)
    assert "4 of 4 reviews are of other answers (the model's, answer2_id) than the first file's" in warnings


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tuple": [8]}, "run.jsonl:1: `tuple`: expected two numbers"),
        ({"tuple": "8 6"}, "run.jsonl:1: `tuple`: expected two numbers"),
        ({"content": 8}, "run.jsonl:1: `content`: expected text, found 8"),
        ({"category": None}, "run.jsonl:1: `category`: expected text"),
        ({"question_id": 99}, "run.jsonl:1: reviews a question that is not asked"),
        ({"question_id": 1}, "run.jsonl:1: reviews another answer to question 1 than line 2"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, capsys, fields, said):
    questions = [{"question_id": i, "category": category} for i, (category, _, _) in enumerate(FIRST)]
    given = write(tmp_path / "questions.jsonl", questions)
    rows = run_of(FIRST)
    rows[0] |= fields
    more = () if "category" in fields else ("--questions", given)
    assert said in refused(tmp_path, capsys, rows, *more)


def test_other_files_are_refused(tmp_path, capsys):
    assert "no review in it" in refused(tmp_path, capsys, [])
    strange = [{"question_id": 0, "category": "conv", "text": "An answer"}]
    assert "no field `content`; it has question_id, category, text" in refused(tmp_path, capsys, strange)
    given = write(tmp_path / "answers.jsonl", [{"question_id": 77, "text": "?"}])
    assert "answers.jsonl:1: answers a question that is not asked" in refused(
        tmp_path, capsys, run_of(FIRST), "--answers", given
    )
    (tmp_path / "page.jsonl").write_text("<html>502</html>")
    assert main(["score", "llava_bench", "--judgments", str(tmp_path / "page.jsonl")]) == 2
    assert "page.jsonl:1" in capsys.readouterr().err


@pytest.mark.skipif("MMALIGN_REAL_DATA" not in os.environ, reason="MMALIGN_REAL_DATA names no folder of real files")
def test_the_published_number_of_llava_13b(capsys):
    """The reviews published with LLaVA-1.5-13B, three runs: 72.5; each review is read as its stored tuple says."""
    folder = Path(os.environ["MMALIGN_REAL_DATA"]) / "llava_bench"
    assert main(["score", "llava_bench", "--json", "--judgments", *map(str, sorted(folder.glob("*.jsonl")))]) == 0
    found = json.loads(capsys.readouterr().out)
    metrics = {m["name"]: m for m in found["metrics"]}
    assert round(metrics["score"]["value"], 1) == 72.5 and metrics["score"]["n"] == 180
    assert found["warnings"] == []
