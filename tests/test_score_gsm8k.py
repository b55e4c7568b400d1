"""`align score gsm8k`: recorded solutions."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from align.benchmarks.gsm8k import final_number, last_number
from align.cli import main

EGGS, ROBE = "How much does she make?", "How many bolts?"
LABELS = [{"question": EGGS, "answer": "9 * 2 = 18\n#### 18"}, {"question": ROBE, "answer": "2 + 1\n#### 1,003"}]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def score(capsys, *files: str) -> dict:
    assert main(["score", "gsm8k", *files, "--json", "--draws", "100", "--least-coverage", "0.4"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    return {m["name"]: (m["value"], m["n"], m["n_failed"]) for m in found}


def refused(capsys, *files: str) -> str:
    assert main(["score", "gsm8k", *files]) == 2
    return capsys.readouterr().err


def test_both_readings_of_plain_solutions(tmp_path, capsys):
    said = ["So $18 a day.", "That is #### 1003"]  # the first has no mark: right by its last number only
    rows = [{**label, "prediction": text} for label, text in zip(LABELS, said, strict=True)]
    found = score(capsys, "--answers", write(tmp_path / "a.jsonl", rows))
    assert found == {"accuracy": (1.0, 2, 0), "accuracy_strict": (0.5, 2, 0), "has_form": (0.5, 2, 0)}


def test_labels_are_joined_on_the_question_and_a_missing_solution_is_a_failure(tmp_path, capsys):
    answers = write(tmp_path / "a.jsonl", [{"question": f" {EGGS}\n", "completion": "17 #### 18"}])
    found = score(capsys, "--answers", answers, "--labels", write(tmp_path / "test.jsonl", LABELS))
    assert found["accuracy"] == (1.0, 1, 1)


def test_no_number_at_all_is_no_score(tmp_path, capsys):
    rows = [{**LABELS[0], "response": text} | {"question": q} for q, text in (("a", "18"), ("b", ""), ("c", "none"))]
    with_few = ["--answers", write(tmp_path / "a.jsonl", [rows[0], rows[1]])]
    assert score(capsys, *with_few)["accuracy"] == (1.0, 1, 1)
    assert score(capsys, "--answers", write(tmp_path / "a.jsonl", rows))["accuracy"] == (None, 1, 2)


def test_samples_of_lm_eval_have_a_line_per_filter(tmp_path, capsys):
    def sample(i: int, filter: str) -> dict:
        said = ["#### 18", "1000 and 3"][i]
        return {"doc_id": i, "doc": LABELS[i], "resps": [[said]], "filtered_resps": ["x"], "filter": filter}

    rows = [sample(i, filter) for filter in ("strict-match", "flexible-extract") for i in range(2)]
    found = score(capsys, "--answers", write(tmp_path / "samples.jsonl", rows))
    assert (found["accuracy"], found["accuracy_strict"]) == ((0.5, 2, 0), (0.5, 2, 0))
    rows.append(rows[0])
    assert "samples.jsonl:5: answers the same question as line 1" in refused(
        capsys, "--answers", write(tmp_path / "samples.jsonl", rows)
    )


def test_solutions_of_several_models_stand_apart(tmp_path, capsys):
    row = {
        "question": EGGS,
        "ground_truth": "9 * 2\nA: 18",
        "small": {"solution": "A: 17"},
        "large": {"solution": "A: 18"},
    }
    found = score(capsys, "--answers", write(tmp_path / "models.jsonl", [row]))
    assert (found["accuracy [small]"][0], found["accuracy_strict [large]"][0]) == (0, 1)


def test_faults_name_file_and_line(tmp_path, capsys):
    labels = write(tmp_path / "test.jsonl", LABELS)

    def says(row: dict, *more: str) -> str:
        return refused(capsys, "--answers", write(tmp_path / "a.jsonl", [row]), *more)

    assert "a.jsonl:1: no field `prediction` or `completion`" in says({"question": EGGS, "answer": "#### 18"})
    assert "a.jsonl:1: no field `question` or `id`" in says({"prediction": "18", "answer": "#### 18"})
    assert "a.jsonl:1: `answer`: no number behind ####; give the truth" in says({"question": EGGS, "prediction": "18"})
    stray = {"question": "another", "prediction": "18"}
    assert "a.jsonl:1: answers a question that the labels do not have" in says(stray, "--labels", labels)
    other = {"question": EGGS, "prediction": "18", "answer": "#### 19"}
    assert "a.jsonl:1: its own truth is 19, " in says(other, "--labels", labels)
    assert "a.jsonl:1: a solution is text, found 18" in says({"question": EGGS, "prediction": 18}, "--labels", labels)
    twice = write(tmp_path / "a.jsonl", [{"question": EGGS, "prediction": "1"}, {"question": EGGS, "prediction": "1"}])
    assert "a.jsonl:2: answers the same question as line 1" in refused(capsys, "--answers", twice, "--labels", labels)


@pytest.mark.parametrize(
    ("text", "last", "final"),
    [
        ("9 * 2 = $18.", "18", None),
        ("#### 18\nThe 2 sisters share it.", "2", "18"),
        ("A day has 24 hours.\nA: 1,800.50", "1800.50", "1800.50"),
        ("16-3", "3", None),  # no sign
        ("It falls to -3", "-3", None),
        ("1.2.3", "3", None),
        ("eighteen", None, None),
    ],
)
def test_numbers(text, last, final):
    assert last_number(text) == (None if last is None else Decimal(last))
    assert final_number(text) == (None if final is None else Decimal(final))


@pytest.mark.skipif("MMALIGN_REAL_DATA" not in os.environ, reason="MMALIGN_REAL_DATA names no folder of real files")
def test_solutions_that_gsm8k_published_with_their_verdicts(capsys):
    """Four models' solutions of its 1,319 test problems, each marked right or wrong by its authors."""
    path = Path(os.environ["MMALIGN_REAL_DATA"]) / "gsm8k" / "example_model_solutions.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    models = [name for name, given in rows[0].items() if isinstance(given, dict)]
    found = score(capsys, "--answers", str(path))
    assert {m: round(found[f"accuracy_strict [{m}]"][0] * 1319) for m in models} == {
        m: sum(row[m]["is_correct"] for row in rows) for m in models
    }
