"""What widely used harnesses get wrong, each on the smallest file that shows it; here it must come out right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.cli import main


def write(path: Path, rows: list[dict] | dict) -> str:
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def score(capsys, *call: str) -> tuple[dict, str]:
    assert main(["score", *call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, "\n".join(found["warnings"])


def reviews(*contents: str) -> list[dict]:
    """As a harness stores them: a call that failed is [-1, -1]."""
    stored = [[float(x) for x in c.split("\n")[0].split()] if c[:1].isdigit() else [-1, -1] for c in contents]
    return [
        {"question_id": i, "category": "llava_bench_conv", "content": content, "tuple": pair}
        for i, (content, pair) in enumerate(zip(contents, stored, strict=True))
    ]


@pytest.mark.parametrize("reply", ["", "Rate limit reached for gpt-4", "<html>502 Bad Gateway 8 10</html>", "-1 -1"])
def test_llava_bench_gives_no_number_when_every_call_failed(tmp_path, capsys, reply):
    """-1/-1 = 100.0 elsewhere: the score of a perfect model."""
    given = write(tmp_path / "reviews.jsonl", reviews(reply, reply, reply))
    metrics, warnings = score(capsys, "llava_bench", "--judgments", given)
    assert {m["value"] for m in metrics.values()} == {None} and metrics["score"]["n_failed"] == 3
    assert "score: no number: 3 of 3 answers have no score" in warnings


def test_one_failed_call_does_not_move_llava_bench(tmp_path, capsys):
    """Three of four graded 8 to 6 are 75.0; with a -1 in both sums it is 73.9 elsewhere."""
    given = write(tmp_path / "reviews.jsonl", reviews("8 6\nYes.", "8 6\nYes.", "8 6\nYes.", ""))
    metrics, _ = score(capsys, "llava_bench", "--judgments", given, "--least-coverage", "0.7")
    assert (metrics["score"]["value"], metrics["score"]["n"], metrics["score"]["n_failed"]) == (75.0, 3, 1)


def test_the_names_of_the_assistants_are_no_grades(tmp_path, capsys):
    """Read as (1, 8) elsewhere: a score of 800."""
    said = "Assistant 1 deserves 8 and Assistant 2 deserves 6"
    given = write(tmp_path / "reviews.jsonl", [row | {"tuple": [1.0, 8.0]} for row in reviews(said)])
    metrics, _ = score(capsys, "llava_bench", "--judgments", given)
    assert metrics["score"]["value"] is None and metrics["score"]["n_failed"] == 1


def test_an_unreadable_grade_of_mm_vet_is_not_zero(tmp_path, capsys):
    """0.0 after eight calls elsewhere: a published 31 became 1.4."""
    grades = {"v1_0": {"model": ["g"], "content": ["0.6"], "score": [0.6]}} | {
        f"v1_{i}": {"model": ["g"], "content": ["The correctness score is 0.7"], "score": [0.0]} for i in range(1, 6)
    }
    given = write(tmp_path / "grades.json", grades)
    metrics, warnings = score(capsys, "mm_vet", "--judgments", given)
    assert metrics["score"]["value"] is None and (metrics["score"]["n"], metrics["score"]["n_failed"]) == (1, 5)
    assert "5 of 6 stored scores are not what the judge's reply says" in warnings
    metrics, _ = score(capsys, "mm_vet", "--judgments", given, "--least-coverage", "0.1")
    assert metrics["score"]["value"] == pytest.approx(60.0)


def judgments(*replies: str, score: float = -1) -> list[dict]:
    return [
        {"question_id": 81 + i, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": f"{i}",
         "judgment": reply, "score": score, "turn": 1}
        for i, reply in enumerate(replies)
    ]  # fmt: skip


def test_a_reply_in_another_form_is_no_zero_in_mt_bench(tmp_path, capsys):
    """`<score>5</score>` is 0 elsewhere, below the scale."""
    replies = ["Rating: [[8]]", "<score>5</score>"]
    given = write(tmp_path / "judgments.jsonl", judgments(*replies, score=0))
    metrics, _ = score(capsys, "mt_bench", "--judgments", given, "--least-coverage", "0.5")
    assert (metrics["score"]["value"], metrics["score"]["n_failed"]) == (8.0, 1)


def test_a_rating_need_not_stand_behind_the_word_rating(tmp_path, capsys):
    """26 of 3,370 real judgments are lost elsewhere to a pattern that asks for `Rating: [[`."""
    rows = judgments("I give it [[7]].", "**Rating**: [[9]]", "Rating: [5]")
    for row, grade in zip(rows, (7, 9, 5), strict=True):
        row["score"] = grade
    metrics, warnings = score(capsys, "mt_bench", "--judgments", write(tmp_path / "judgments.jsonl", rows))
    assert (metrics["score"]["value"], metrics["score"]["n"]) == (7.0, 3) and "stored" not in warnings


def test_failed_judgments_of_mt_bench_are_counted_not_dropped(tmp_path, capsys):
    replies = ["[[6]]", "$ERROR$", "[[8]]", "[[7]]", "[[7]]"]
    rows = [
        row | {"score": -1 if row["judgment"] == "$ERROR$" else row["judgment"].strip("[]")}
        for row in judgments(*replies)
    ]
    rows = [row | {"score": float(row["score"])} for row in rows]
    metrics, _ = score(capsys, "mt_bench", "--judgments", write(tmp_path / "judgments.jsonl", rows))
    assert (metrics["score"]["value"], metrics["score"]["n"], metrics["score"]["n_failed"]) == (7.0, 4, 1)


def test_failed_annotations_do_not_just_shrink_alpaca_eval(tmp_path, capsys):
    """Elsewhere 2 wins of 2 readable annotations out of 10 are a win rate of 100 with n_total 2."""
    rows = [
        {"instruction": f"{i}", "output_1": "a", "generator_1": "b", "output_2": "c", "generator_2": "m",
         "annotator": "gpt-4", "preference": 2.0 if i < 2 else None}
        for i in range(10)
    ]  # fmt: skip
    metrics, warnings = score(capsys, "alpaca_eval", "--judgments", write(tmp_path / "annotations.json", rows))
    assert metrics["win_rate"]["value"] is None and metrics["win_rate"]["n_failed"] == 8
    assert "win_rate: no number: 8 of 10 answers have no score" in warnings


def pope(folder: Path, said: list[str]) -> list[str]:
    """Ten pictures with a dog, ten without."""
    asked = [
        {"question_id": i, "image": f"{i}.jpg", "text": "Is there a dog?", "category": "random"}
        for i in range(len(said))
    ]
    labels = [row | {"label": "yes" if i % 2 == 0 else "no"} for i, row in enumerate(asked)]
    answers = [{"question_id": i, "text": text} for i, text in enumerate(said)]
    return [
        "pope",
        *("--questions", write(folder / "questions.jsonl", asked)),
        *("--answers", write(folder / "answers.jsonl", answers)),
        *("--labels", write(folder / "coco_pope_random.jsonl", labels)),
    ]


@pytest.mark.parametrize("parser", ["official", "strict"])
def test_verbose_answers_to_yes_no_questions_are_answers(tmp_path, capsys, parser):
    """0.0 by exact match elsewhere."""
    said = ["Yes, there is a dog." if i % 2 == 0 else "No, I see no dog in it." for i in range(20)]
    metrics, _ = score(capsys, *pope(tmp_path, said), "--parser", parser)
    assert metrics["accuracy"]["value"] == 1.0 and metrics["f1"]["value"] == 1.0


def test_the_yes_ratio_is_of_what_the_model_said(tmp_path, capsys):
    """0.5, that of the labels, elsewhere."""
    metrics, _ = score(capsys, *pope(tmp_path, ["Yes"] * 20))
    assert metrics["yes_ratio"]["value"] == 1.0


def test_the_interval_of_f1_is_not_that_of_accuracy(tmp_path, capsys):
    """Ten hits, one false alarm and nine right noes: two numbers, two intervals; elsewhere one error for both."""
    said = ["Yes" if i % 2 == 0 or i == 1 else "No" for i in range(20)]
    metrics, _ = score(capsys, *pope(tmp_path, said))
    f1, accuracy = metrics["f1"], metrics["accuracy"]
    assert (f1["value"], accuracy["value"]) == (pytest.approx(20 / 21), 0.95)
    assert (f1["low"], f1["high"]) != (accuracy["low"], accuracy["high"])
    assert f1["low"] < f1["value"] <= f1["high"]
