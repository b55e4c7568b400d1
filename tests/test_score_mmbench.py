"""`align score mmbench`: a submission, each question asked as often as it has options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.benchmarks.mmbench import read_mmbench
from align.benchmarks.sheet import Files
from align.cli import main

COLUMNS = ["index", "question", "A", "B", "C", "D", "answer", "prediction", "l2-category"]
ROWS = [
    [7, "Which colour?", "red", "blue", "", "", "B", "B. blue", "looks"],
    [8, "How many?", 1, 2, 3, "", "C", "(C)", "counts"],
    [9, "Which one?", "cat", "dog", "", "", "A", "the cat", "looks"],
    [1_000_007, "Which colour?", "blue", "red", "", "", "A", "A", "looks"],
    [1_000_008, "How many?", 3, 1, 2, "", "A", "The answer is A.", "counts"],
    [2_000_008, "How many?", 2, 3, 1, "", "B", "B", "counts"],
    [1_000_009, "Which one?", "dog", "cat", "", "", "B", "A", "looks"],  # the second pass of 9 is wrong
]


def tsv(path: Path, rows: list[list], columns: list[str] = COLUMNS) -> Path:
    lines = ["\t".join(columns), *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def score(capsys, answers: Path, *more: object) -> tuple[dict, list[str]]:
    arguments = ["score", "mmbench", "--answers", answers, *more, "--json", "--draws", "100"]
    assert main([*map(str, arguments)]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: (m["value"], m["n"], m["n_failed"]) for m in found["metrics"]}, found["warnings"]


def refused(capsys, answers: Path, *more: object) -> str:
    assert main(["score", "mmbench", "--answers", *map(str, (answers, *more))]) == 2
    return capsys.readouterr().err


def test_a_question_is_right_if_every_pass_is(tmp_path, capsys):
    metrics, warnings = score(capsys, tsv(tmp_path / "a.tsv", ROWS))
    assert metrics == {
        "accuracy": (pytest.approx(2 / 3), 3, 0),
        "vanilla_accuracy": (1.0, 3, 0),
        "accuracy_looks": (0.5, 2, 0),
        "accuracy_counts": (1.0, 1, 0),
    }
    assert warnings == []


def test_the_workbook_of_a_submission(tmp_path, capsys):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [COLUMNS, *ROWS]:
        book.active.append([None if cell == "" else cell for cell in row])
    book.save(tmp_path / "a.xlsx")
    metrics, _ = score(capsys, tmp_path / "a.xlsx")
    assert metrics["accuracy"] == (pytest.approx(2 / 3), 3, 0)
    (tmp_path / "a.xlsx").write_text("<html>502 Bad Gateway</html>")
    assert "a.xlsx: is no workbook" in refused(capsys, tmp_path / "a.xlsx")


def test_labels_of_the_benchmark_tell_what_is_missing(tmp_path, capsys):
    labels = tsv(tmp_path / "mmbench_dev.tsv", [[*row[:7], "", row[8]] for row in ROWS])
    unlabelled = [[*row[:6], row[7]] for row in ROWS[:-1]]
    answers = tsv(tmp_path / "a.tsv", unlabelled, ["index", "question", "A", "B", "C", "D", "prediction"])
    metrics, warnings = score(capsys, answers, "--labels", labels, "--least-coverage", 0.6)
    assert metrics["accuracy"] == (1.0, 2, 1)
    assert "of 7 passes 0 name no option, or two, and 1 are missing: their 1 questions have no score" in warnings[0]
    assert "a.tsv: no column `answer`: give the benchmark's TSV with --labels" in refused(capsys, answers)


def test_llavas_answers_are_read_with_the_labels(tmp_path, capsys):
    rows = [{"question_id": row[0], "text": row[7], "prompt": ""} for row in ROWS]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = tsv(tmp_path / "dev.tsv", [[*row[:7], "", row[8]] for row in ROWS])
    assert score(capsys, tmp_path / "a.jsonl", "--labels", labels)[0]["accuracy"] == (pytest.approx(2 / 3), 3, 0)


def test_what_names_no_option_or_is_not_there_leaves_its_question_without_score(tmp_path, capsys):
    rows = [list(row) for row in ROWS[:-1]]  # a pass of 9 is missing, though nothing but its options says so
    rows[0][7] = "A or B"
    metrics, _ = score(capsys, tsv(tmp_path / "a.tsv", rows), "--least-coverage", 0.3)
    assert metrics["accuracy"] == (1.0, 1, 2)
    metrics, warnings = score(capsys, tsv(tmp_path / "a.tsv", rows))
    assert metrics["accuracy"] == (None, 1, 2) and "2 of 3 answers have no score" in warnings[-1]


def test_one_pass_is_no_circular_evaluation(tmp_path, capsys):
    metrics, warnings = score(capsys, tsv(tmp_path / "a.tsv", ROWS[:3]))
    assert metrics["accuracy"] == metrics["vanilla_accuracy"] == (1.0, 3, 0)
    assert "each question was asked once, so accuracy is not circular" in warnings[0]


def test_faults_name_file_and_line(tmp_path, capsys):
    labels = tsv(tmp_path / "dev.tsv", ROWS)
    path = tmp_path / "a.tsv"
    assert "a.tsv:3: `index` 7 occurs twice, first in line 2" in refused(capsys, tsv(path, [ROWS[0], ROWS[0]]))
    other = [7, "Which shape?", *ROWS[0][2:]]
    assert "a.tsv:2: `question` differs from" in refused(capsys, tsv(path, [other]), "--labels", labels)
    stray = [6, *ROWS[0][1:]]
    assert "a.tsv:2: its index is not in the labels" in refused(capsys, tsv(path, [stray]), "--labels", labels)
    wrong = [*ROWS[0][:6], "C", *ROWS[0][7:]]
    assert "a.tsv:2: `answer`: expected one of A, B, found 'C'" in refused(capsys, tsv(path, [wrong]))
    names = ["index", "question", "a", "b", "c", "d", "answer", "prediction", "l2-category"]
    assert "a.tsv:2: expected at least two options" in refused(capsys, tsv(path, ROWS[:1], names))
    names = [*COLUMNS[:7], "output", COLUMNS[8]]
    assert "a.tsv: no column `prediction`; it has index," in refused(capsys, tsv(path, ROWS[:1], names))


def test_circular_evaluation_is_what_vlmevalkit_makes_of_it(tmp_path):
    """60 made-up questions of two to four options, and the hits of VLMEvalKit's evaluation by rule (49 right)."""
    golden = json.loads((Path(__file__).parent / "benchmark_golden" / "visual.json").read_text(encoding="utf-8"))
    rows, hits = golden["mmbench"]["rows"], golden["mmbench"]["hits"]
    (sheet,) = read_mmbench(Files(answers=(tsv(tmp_path / "a.tsv", rows, COLUMNS[:8]),)))
    assert {o.id.partition("/")[0]: o.value["accuracy"] for o in sheet.outcomes} == hits
    assert (len(hits), sum(hits.values())) == (60, 49)
