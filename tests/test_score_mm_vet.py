"""`align score mm_vet`: grades as the official evaluator writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.cli import main

QUESTIONS = {
    "v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1", "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "v1_1.png", "question": "Who?", "answer": "Ada", "capability": ["rec", "know"]},
    "v1_2": {"imagename": "v1_2.png", "question": "And y?", "answer": "2", "capability": ["math", "ocr"]},
    "v1_3": {"imagename": "v1_3.png", "question": "What is it?", "answer": "a cat", "capability": ["rec"]},
}


def graded(*scores: float, judge: str = "gpt-4-0613") -> dict:
    """One question; as many runs as scores."""
    return {"model": [judge] * len(scores), "content": [str(s) for s in scores], "score": list(scores)}


def usual() -> dict:
    return {"v1_0": graded(0.5), "v1_1": graded(1.0), "v1_2": graded(0.0), "v1_3": graded(0.9)}


def write(path: Path, value: object) -> str:
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def score(tmp_path: Path, capsys, *files: dict, more: tuple[str, ...] = ()) -> tuple[dict, str]:
    paths = [write(tmp_path / f"grade{i}.json", grades) for i, grades in enumerate(files, 1)]
    given = write(tmp_path / "mm-vet.json", QUESTIONS)
    call = ["score", "mm_vet", "--json", "--draws", "200", "--judgments", *paths, "--questions", given, *more]
    assert main(call) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, "\n".join(found["warnings"])


def refused(tmp_path: Path, capsys, grades: object, *more: str) -> str:
    assert main(["score", "mm_vet", "--judgments", write(tmp_path / "grade.json", grades), *more]) == 2
    return capsys.readouterr().err


def test_the_total_the_capabilities_and_their_integrations(tmp_path, capsys):
    metrics, warnings = score(tmp_path, capsys, usual())
    assert {name: m["value"] for name, m in metrics.items()} == {
        "score": pytest.approx(60.0),
        "score_rec": pytest.approx(95.0),
        "score_ocr": pytest.approx(25.0),
        "score_know": pytest.approx(100.0),
        "score_math": pytest.approx(25.0),
        "integration_ocr+math": pytest.approx(25.0),  # in whichever order a question names them
        "integration_rec+know": pytest.approx(100.0),
        "integration_rec": pytest.approx(90.0),
    }
    assert warnings == "4 of MM-Vet's 218 questions; published scores are of all"


def test_without_questions_there_is_the_total_alone(tmp_path, capsys):
    assert main(["score", "mm_vet", "--json", "--judgments", write(tmp_path / "grade.json", usual())]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(m["name"], round(m["value"], 6)) for m in found["metrics"]] == [("score", 60.0)]
    assert "no capabilities without --questions mm-vet.json" in found["warnings"]


def test_several_runs_in_a_file_and_in_files(tmp_path, capsys):
    twice = {"v1_0": graded(0.5, 0.7), "v1_1": graded(1.0, 1.0), "v1_2": graded(0.0, 0.2), "v1_3": graded(0.9, 0.9)}
    metrics, _ = score(tmp_path, capsys, twice)
    assert metrics["score"]["value"] == pytest.approx((60 + 70) / 2)
    assert metrics["judge_sd"]["value"] == pytest.approx(10 / 2**0.5)
    metrics, _ = score(tmp_path, capsys, twice, usual())
    assert metrics["score"]["value"] == pytest.approx((60 + 70 + 60) / 3) and metrics["score"]["n"] == 12


def test_a_reply_that_is_no_number_is_a_failure_whatever_was_stored(tmp_path, capsys):
    grades = usual() | {"v1_1": {"model": ["gpt-4"], "content": ["The correctness score is 0.7"], "score": [0.0]}}
    metrics, warnings = score(tmp_path, capsys, grades, more=("--least-coverage", "0.5"))
    assert metrics["score"]["value"] == pytest.approx(100 * 1.4 / 3)
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (3, 1)
    assert "1 of 4 stored scores are not what the judge's reply says" in warnings
    grades = {key: {"model": [""], "content": ["<html>502</html>"], "score": [-1]} for key in usual()}
    metrics, warnings = score(tmp_path, capsys, grades)
    assert metrics["score"]["value"] is None and "no number: 4 of 4" in warnings and "stored" not in warnings


def test_two_judges_in_a_file_are_said(tmp_path, capsys):
    _, warnings = score(tmp_path, capsys, usual() | {"v1_3": graded(0.9, judge="gpt-4o")})
    assert "more than one judge graded, and they are in one score: gpt-4-0613 (3), gpt-4o (1)" in warnings


def test_questions_without_a_grade_count_as_failed(tmp_path, capsys):
    grades = usual() | {"v1_0": graded(0.5, 0.5)}
    del grades["v1_3"]
    metrics, warnings = score(tmp_path, capsys, grades, more=("--least-coverage", "0.4"))
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (4, 4)
    assert "4 of 8 grades are missing; they count as failed" in warnings


def test_the_length_of_the_answers(tmp_path, capsys):
    given = write(tmp_path / "answers.json", {"v1_0": "x = -1", "v1_1": "Ada Lovelace"})
    metrics, _ = score(tmp_path, capsys, usual(), more=("--answers", given))
    assert (metrics["answer_chars"]["value"], metrics["answer_chars"]["n"]) == (9.0, 2)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"score": [0.5]}, "grade.json: v1_0: expected"),
        ({"content": ["0.5", "0.4"], "score": [0.5]}, "grade.json: v1_0: expected"),
        ({"content": [], "score": []}, "grade.json: v1_0: expected"),
        ({"content": ["0.5"], "score": ["half"]}, "grade.json: v1_0: `score`: expected numbers, found 'half'"),
        (0.5, "grade.json: v1_0: expected"),
    ],
)
def test_a_bad_entry_is_refused_with_its_name(tmp_path, capsys, entry, said):
    assert said in refused(tmp_path, capsys, usual() | {"v1_0": entry})


def test_other_files_are_refused(tmp_path, capsys):
    assert "no grade in it" in refused(tmp_path, capsys, {})
    assert "expected one object of grades by question" in refused(tmp_path, capsys, [usual()])
    given = write(tmp_path / "mm-vet.json", QUESTIONS)
    assert "does not have: v2_9" in refused(tmp_path, capsys, usual() | {"v2_9": graded(1)}, "--questions", given)
    given = write(tmp_path / "mm-vet.json", {"v1_0": {"question": "?"}})
    assert "v1_0: `capability`: expected a list" in refused(tmp_path, capsys, usual(), "--questions", given)
    given = write(tmp_path / "answers.json", {"v1_0": 3})
    assert "v1_0: expected the answer's text" in refused(tmp_path, capsys, usual(), "--answers", given)
    (tmp_path / "page.json").write_text("<html>502</html>")
    assert main(["score", "mm_vet", "--judgments", str(tmp_path / "page.json")]) == 2
    assert "page.json: is no JSON" in capsys.readouterr().err
