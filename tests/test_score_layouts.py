"""`align score`: published layouts as people's tools really write them, and runs of a judge that failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.cli import main

SPLITS = ("random", "popular", "adversarial")


def score(capsys, *call: object) -> tuple[dict, str]:
    assert main(["score", *map(str, call), "--json", "--draws", "200"]) == 0
    found = json.loads(capsys.readouterr().out)
    for m in found["metrics"]:
        assert m["low"] is None or m["low"] <= m["value"] <= m["high"], m
    return {m["name"]: m for m in found["metrics"]}, "\n".join(found["warnings"])


def refused(capsys, *call: object) -> str:
    assert main(["score", *map(str, call), "--json"]) == 2
    return "\n".join(json.loads(capsys.readouterr().out)["faults"])


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def shown(metric: dict) -> tuple:
    return metric["value"], metric["n"], metric["n_failed"]


# ------------------------------------------------------------------------------------------------------ ways to write

ANSWERS = [{"question_id": i, "text": "Yes" if i in (0, 1, 2) else "No"} for i in range(6)]
LABELS = [{"image": f"{i}.jpg", "text": "Is there a dog?", "label": "yes" if i % 2 == 0 else "no"} for i in range(6)]


@pytest.fixture
def pope(tmp_path) -> list[object]:
    """Truth yes no yes no yes no, said yes yes yes no no no: 2 of 3 said, 2 of 3 true, F1 2/3."""
    asked = [row | {"question_id": i, "category": "random"} for i, row in enumerate(LABELS)]
    lines(tmp_path / "coco_pope_random.json", LABELS)
    lines(tmp_path / "questions.jsonl", asked)
    lines(tmp_path / "answers.jsonl", ANSWERS)
    given = ["--labels", tmp_path, "--questions", tmp_path / "questions.jsonl"]
    return ["pope", *given, "--answers", tmp_path / "answers.jsonl"]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ANSWERS),
        json.dumps(ANSWERS, indent=2),
        "\n\n".join(map(json.dumps, ANSWERS)),
        "\ufeff" + "\r\n".join(map(json.dumps, ANSWERS)) + "\r\n\r\n",
        "\n".join(json.dumps(row | {"question_id": f"{row['question_id']}.0"}) for row in reversed(ANSWERS)),
    ],
    ids=["a list", "a list in many lines", "empty lines", "Windows", "ids as numbers in text"],
)
def test_answers_are_the_same_in_whichever_way_they_are_written(tmp_path, capsys, pope, text):
    (tmp_path / "answers.jsonl").write_bytes(text.encode("utf-8"))
    assert shown(score(capsys, *pope)[0]["f1"]) == (pytest.approx(2 / 3), 6, 0)


def test_an_answer_of_null_is_a_failure(tmp_path, capsys, pope):
    lines(tmp_path / "answers.jsonl", [*ANSWERS[:5], {"question_id": 5, "text": None}])
    assert shown(score(capsys, *pope)[0]["accuracy"]) == (0.6, 5, 1)


def test_other_files_beside_the_labels_are_left_alone(tmp_path, capsys, pope):
    (tmp_path / "scores_random.txt").write_text("not labels")
    (tmp_path / "zz_random").mkdir()
    lines(tmp_path / "gqa_pope_random.json", [row | {"label": "no"} for row in LABELS])
    assert shown(score(capsys, *pope)[0]["f1"]) == (pytest.approx(2 / 3), 6, 0)
    (tmp_path / "coco_pope_random.json").rename(tmp_path / "aokvqa_pope_random.json")
    assert "both are labels of random" in refused(capsys, *pope)


@pytest.mark.parametrize("row", ['{"question_id":' + "[" * 100_000, '{"question_id": 1, "text": "caf\\', "<html>"])
def test_what_is_no_json_is_told_with_its_line(tmp_path, capsys, pope, row):
    (tmp_path / "answers.jsonl").write_text(json.dumps(ANSWERS[0]) + "\n" + row + "\n")
    assert "answers.jsonl:2: not a line of JSON" in refused(capsys, *pope)


def test_a_wrong_option_is_told_in_json_too(capsys):
    with pytest.raises(SystemExit) as end:
        main(["score", "pope", "--anwsers", "x", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert end.value.code == 2 and "unrecognized arguments: --anwsers x" in told["faults"][0]


# ------------------------------------------------------------------------------------------------------------- judges


def review(question: int, content: str | None, pair: object) -> dict:
    return {"question_id": question, "category": "llava_bench_conv", "content": content, "tuple": pair}


def reviews(n: int = 4) -> list[dict]:
    return [review(i, f"8 {4 + i}\nSo.", [8, 4 + i]) for i in range(n)]


def test_a_run_that_failed_as_a_whole_counts_among_the_failures(tmp_path, capsys):
    """2 of 3 runs are below the least coverage; 5 of 6 are not, and the sixth is not forgotten."""
    good = [lines(tmp_path / f"eval{i}.jsonl", reviews()) for i in range(5)]
    dead = lines(tmp_path / "dead.jsonl", [review(i, "$ERROR$", [-1, -1]) for i in range(4)])
    metrics, warnings = score(capsys, "llava_bench", "--judgments", *good[:2], dead)
    assert shown(metrics["score"]) == (None, 8, 4) and "4 of 12 answers have no score" in warnings
    metrics, _ = score(capsys, "llava_bench", "--judgments", *good, dead)
    assert shown(metrics["score"]) == (68.75, 20, 4) and shown(metrics["judge_sd"]) == (0, 20, 4)


def judgment(question: int, turn: object, grade: object, **more: object) -> dict:
    reply = None if grade is None else f"Rating: [[{grade}]]"
    about = {"question_id": question, "turn": turn, "model": "m", "judge": ["gpt-4", "single-v1"]}
    return about | {"user_prompt": f"{question} {turn}", "judgment": reply, "score": grade} | more


def test_a_dead_run_of_mt_bench_takes_no_number_from_the_others_and_holes_are_failures(tmp_path, capsys):
    rows = [judgment(81 + i, turn, 5 + i) for i in range(3) for turn in (1, 2)]
    good = [lines(tmp_path / f"{i}.jsonl", rows) for i in range(5)]
    dead = lines(tmp_path / "dead.jsonl", [row | {"judgment": "$ERROR$", "score": -1} for row in rows])
    assert shown(score(capsys, "mt_bench", "--judgments", *good, dead)[0]["score"]) == (6, 30, 6)
    part = lines(tmp_path / "part.jsonl", rows[:-1])
    metrics, warnings = score(capsys, "mt_bench", "--judgments", *good, part)
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (35, 1) and "1 of 36 answers were never" in warnings


def test_numbers_as_text_are_numbers_and_what_is_not_there_is_a_failure(tmp_path, capsys):
    rows = [judgment(81, "1", 8), judgment(81, 2.0, 6), judgment(82, 1, 7, tstamp=10**400), judgment(82, 2, 7)]
    rows += [judgment(83, 1, 9) | {"score": float("nan")}, judgment(83, 2, None)]
    rows[0]["score"] = "8"
    given = lines(tmp_path / "judgments.jsonl", rows)
    metrics, _ = score(capsys, "mt_bench", "--judgments", given, "--least-coverage", 0.5)
    assert shown(metrics["score"]) == (7, 4, 2)
    lines(given, [judgment(81, 1, 8) | {"score": 10**400}])
    assert "`score`: expected a number" in refused(capsys, "mt_bench", "--judgments", given)


@pytest.mark.parametrize("pair", [None, [], [None, None], [float("nan"), float("nan")]])
def test_a_review_without_grades_is_a_failure(tmp_path, capsys, pair):
    given = lines(tmp_path / "reviews.jsonl", [*reviews(), review(4, "", pair)])
    assert shown(score(capsys, "llava_bench", "--judgments", given)[0]["score"]) == (68.75, 4, 1)


def test_grades_of_mm_vet_that_never_came_and_grades_as_text(tmp_path, capsys):
    grades = {f"v1_{i}": {"model": ["g"], "content": [".5"], "score": ["0.5"]} for i in range(5)}
    grades["v1_5"] = {"model": [], "content": [], "score": []}
    (tmp_path / "grades.json").write_text(json.dumps(grades))
    metrics, warnings = score(capsys, "mm_vet", "--judgments", tmp_path / "grades.json")
    assert shown(metrics["score"]) == (50, 5, 1) and "more than one judge" not in warnings


def test_the_interval_of_the_judges_noise_holds_the_number(tmp_path, capsys):
    """A resample's standard deviation is larger than the sample's by and by: the percentiles alone may lie above it."""
    first, second = reviews(12), [review(i, f"8 {4 + (11 - i) % 12}", [8, 4]) for i in range(6)] + reviews(12)[6:]
    given = [lines(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((first, second))]
    assert "judge_sd" in score(capsys, "llava_bench", "--judgments", *given, "--least-coverage", 0.1)[0]


# ------------------------------------------------------------------------------------------------------------- others


def annotation(i: int, preference: object) -> dict:
    return {"instruction": f"{i}", "output_1": "a", "output_2": "b" * i, "preference": preference}


def test_annotations_in_one_object_and_preferences_as_text(tmp_path, capsys):
    rows = [annotation(i, p) for i, p in enumerate((1, "2", 2.0, 0, 1.5))]
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": rows}))
    metrics, warnings = score(capsys, "alpaca_eval", "--judgments", tmp_path / "annotations.json")
    assert shown(metrics["win_rate"]) == (60, 5, 0) and "a judge without a name judges" in warnings


def test_a_truth_of_gsm8k_must_be_a_number(tmp_path, capsys):
    asked = {"question": "How cold?", "prediction": "#### \N{MINUS SIGN}3"}
    answers = lines(tmp_path / "answers.jsonl", [asked])
    labels = lines(tmp_path / "test.jsonl", [{"question": "How cold?", "answer": -3}])
    metrics, _ = score(capsys, "gsm8k", "--answers", answers, "--labels", labels)
    assert shown(metrics["accuracy"]) == shown(metrics["accuracy_strict"]) == (1, 1, 0)
    lines(answers, [asked | {"answer": float("nan")}])
    assert "answers.jsonl:1: `answer`: no number" in refused(capsys, "gsm8k", "--answers", answers)


def test_results_of_scienceqa_as_numbers_text_and_null(tmp_path, capsys):
    problems = {str(i): {"question": "?", "choices": ["a", "b"], "answer": 1, "split": "test"} for i in range(5)}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    results = {"0": 1.0, "1": "1", "2": 0, "3": 1, "4": None}
    (tmp_path / "result.jsonl").write_text(json.dumps({"results": results}, indent=1))
    given = ["--answers", tmp_path / "result.jsonl", "--labels", tmp_path / "problems.json"]
    assert shown(score(capsys, "scienceqa", *given)[0]["accuracy"]) == (0.75, 4, 1)
