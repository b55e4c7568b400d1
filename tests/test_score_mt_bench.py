"""`align score mt_bench`: judgments as FastChat's judge writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from align.cli import main


def judgment(question: int, turn: int, grade: float, *, answer: str = "An answer.", **fields) -> dict:
    if turn == 1:
        shown = f"[Question]\nWhy?\n\n[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
    else:
        shown = (
            f"### Assistant A:\nFirst.\n\n### Assistant A:\n{answer}\n\n<|The End of Assistant A's Conversation with"
        )
    return {
        "question_id": question,
        "model": "m",
        "judge": ["gpt-4", "single-v1" if turn == 1 else "single-v1-multi-turn"],
        "user_prompt": shown,
        "judgment": f"Well. Rating: [[{grade}]]",
        "score": grade,
        "turn": turn,
        "tstamp": 1700000000.5,
        **fields,
    }


def usual() -> list[dict]:
    """Two questions of writing, one of mathematics; both turns."""
    grades = {81: (8, 6), 82: (9, 7), 111: (3, 1)}
    return [judgment(q, t, grade, answer="x" * grade) for q, both in grades.items() for t, grade in enumerate(both, 1)]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def score(tmp_path: Path, capsys, rows: list[dict], *more: str) -> tuple[dict, str]:
    path = write(tmp_path / "judgments.jsonl", rows)
    assert main(["score", "mt_bench", "--json", "--draws", "200", "--judgments", path, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, "\n".join(found["warnings"])


def refused(tmp_path: Path, capsys, rows: list[dict], *more: str) -> str:
    path = write(tmp_path / "judgments.jsonl", rows)
    assert main(["score", "mt_bench", "--judgments", path, *more]) == 2
    return capsys.readouterr().err


def test_the_score_its_turns_its_categories_and_the_length(tmp_path, capsys):
    metrics, _ = score(tmp_path, capsys, usual())
    values = {name: m["value"] for name, m in metrics.items()}
    assert values == {
        "score": pytest.approx(34 / 6),
        "turn_1": pytest.approx(20 / 3),
        "turn_2": pytest.approx(14 / 3),
        "score_writing": 7.5,
        "score_math": 2.0,
        "answer_chars": pytest.approx(34 / 6),  # each answer is as long as it is good
    }
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (6, 0)


def test_what_the_judgment_says_counts_and_a_stored_minus_one_is_a_failure(tmp_path, capsys):
    rows = usual()
    rows[0]["score"] = 1  # the judgment says 8
    rows[5] |= {"judgment": "$ERROR$", "score": -1}
    metrics, warnings = score(tmp_path, capsys, rows)
    assert metrics["score"]["value"] == pytest.approx(33 / 5)
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (5, 1)
    assert "1 of 6 stored scores are not what the judgment says" in warnings
    rows[1]["score"] = None  # and the judgment says 6
    metrics, warnings = score(tmp_path, capsys, rows, "--least-coverage", "0.5")
    assert (metrics["score"]["n"], metrics["score"]["n_failed"]) == (4, 2)
    assert "2 of 6 stored scores are not what the judgment says; it counts, but a stored -1 stays a failure" in warnings


def test_a_stored_score_does_not_stand_in_for_an_unreadable_judgment(tmp_path, capsys):
    rows = [row | {"judgment": "<html>502 [[9]]</html>"} for row in usual()]
    metrics, warnings = score(tmp_path, capsys, rows)
    assert metrics["score"]["value"] is None and metrics["score"]["n_failed"] == 6
    assert "score: no number: 6 of 6 answers have no score" in warnings


def test_a_prompt_that_was_judged_again_counts_once_with_its_last_grade(tmp_path, capsys):
    metrics, warnings = score(tmp_path, capsys, [*usual(), judgment(81, 1, 2, answer="x" * 8)])
    assert metrics["score"]["value"] == pytest.approx((34 - 8 + 2) / 6) and metrics["score"]["n"] == 6
    assert "1 of 7 judgments are of a prompt that was judged again" in warnings


def test_two_sets_of_answers_under_one_name_are_told_apart_by_what_was_judged(tmp_path, capsys):
    """The answers to 82's first turn are alike in both sets: there the time tells."""
    earlier = [row | {"tstamp": 100.0 + i} for i, row in enumerate(usual())]
    later = [
        judgment(row["question_id"], row["turn"], row["score"] + 1, answer="y") | {"tstamp": 200.0 + i}
        for i, row in enumerate(usual())
    ]
    later[2] = earlier[2] | {"tstamp": 202.0}
    metrics, warnings = score(tmp_path, capsys, [*later, *earlier])
    assert metrics["score [m, answers 1]"]["value"] == pytest.approx(34 / 6)
    assert metrics["score [m, answers 2]"]["value"] == pytest.approx((34 + 5) / 6)
    assert metrics["score [m, answers 2]"]["n"] == 6
    assert "m: 2 sets of answers under one name" in warnings and "judged again" not in warnings


def test_models_and_judges_are_reported_apart(tmp_path, capsys):
    other = [row | {"model": "n"} for row in usual()]
    stricter = [row | {"judge": ["gpt-5", row["judge"][1]], "judgment": "[[1]]", "score": 1} for row in usual()]
    metrics, warnings = score(tmp_path, capsys, usual() + other + stricter)
    named = {name: m["value"] for name, m in metrics.items() if name.startswith("score [")}
    assert named == {
        "score [m, judge gpt-4 single-v1]": pytest.approx(34 / 6),
        "score [n]": pytest.approx(34 / 6),
        "score [m, judge gpt-5 single-v1]": 1.0,
    }
    assert "m: judged by more than one judge" in warnings


def test_the_prompts_for_mathematics_are_of_the_same_judge(tmp_path, capsys):
    rows = usual()
    rows[4]["judge"], rows[5]["judge"] = ["gpt-4", "single-math-v1"], ["gpt-4", "single-math-v1-multi-turn"]
    metrics, _ = score(tmp_path, capsys, rows)
    assert metrics["score"]["n"] == 6


def test_a_second_file_is_another_run_of_the_judge(tmp_path, capsys):
    again = [row | {"judgment": f"[[{row['score'] + 1}]]", "score": row["score"] + 1} for row in usual()]
    path = write(tmp_path / "judgments.jsonl", usual())
    second = write(tmp_path / "second.jsonl", again)
    assert main(["score", "mt_bench", "--json", "--judgments", path, second]) == 0
    metrics = {m["name"]: m for m in json.loads(capsys.readouterr().out)["metrics"]}
    assert metrics["score"]["value"] == pytest.approx(34 / 6 + 0.5)
    assert metrics["judge_sd"]["value"] == pytest.approx(0.5**0.5)


def test_what_is_asked_or_answered_but_not_judged_counts_as_failed(tmp_path, capsys):
    questions = [{"question_id": q, "category": "writing", "turns": ["?", "?"]} for q in (81, 82, 111)]
    given = write(tmp_path / "question.jsonl", questions)
    metrics, warnings = score(tmp_path, capsys, usual()[:5], "--questions", given)
    assert (metrics["score_writing"]["n"], metrics["score"]["n_failed"]) == (5, 1)
    assert "1 of 6 answers were never judged" in warnings
    answers = [{"question_id": q, "model_id": "m", "choices": [{"index": 0, "turns": ["a", "b"]}]} for q in (81, 82)]
    given = write(tmp_path / "answers.jsonl", answers)
    metrics, warnings = score(tmp_path, capsys, usual()[:3], "--answers", given)
    assert metrics["score"]["n_failed"] == 1 and metrics["score"]["value"] is None
    assert "3 of 3 judged answers are not those of --answers" in warnings


def test_holes_are_said_where_nobody_lists_the_questions(tmp_path, capsys):
    _, warnings = score(tmp_path, capsys, usual()[:5])
    assert "1 of 3 questions have a judgment of one turn only" in warnings
    assert "3 of MT-Bench's 80 questions are judged" in warnings
    _, warnings = score(tmp_path, capsys, usual()[:1])
    assert "judgments of one turn only; published scores are of both" in warnings
    _, warnings = score(tmp_path, capsys, [judgment(7, 1, 5)])
    assert "give --questions for their categories" in warnings


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"turn": 3}, "judgments.jsonl:1: `turn`: expected 1 or 2, found 3"),
        ({"judge": None}, "judgments.jsonl:1: `judge`: expected a name and a prompt"),
        ({"score": "eight"}, 'judgments.jsonl:1: `score`: expected a number, found "eight"'),
        ({"judgment": 8}, "judgments.jsonl:1: `judgment`: expected text, found 8"),
        ({"question_id": ""}, "judgments.jsonl:1: `question_id`: expected an id"),
        ({"question_id": 999}, "judgments.jsonl:1: judges a question that is not asked"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, capsys, fields, said):
    questions = [{"question_id": q, "category": "writing", "turns": ["?", "?"]} for q in (81, 82, 111)]
    given = write(tmp_path / "question.jsonl", questions)
    assert said in refused(tmp_path, capsys, [judgment(81, 1, 8) | fields], "--questions", given)


def test_other_files_are_refused(tmp_path, capsys):
    assert "no judgment in it" in refused(tmp_path, capsys, [])
    strange = [{"id": 1, "text": "An answer", "score": 1}]
    assert "no field `user_prompt`; it has id, text, score" in refused(tmp_path, capsys, strange)
    pairs = {"question_id": 81, "model_1": "a", "model_2": "b", "g1_winner": "tie", "g1_judgment": "[[C]]"}
    assert "compares two models" in refused(tmp_path, capsys, [pairs])
    answers = write(
        tmp_path / "a.jsonl", [{"question_id": 81, "model_id": "z", "choices": [{"index": 0, "turns": ["a", "b"]}]}]
    )
    assert "judges m; --answers are of z" in refused(tmp_path, capsys, usual(), "--answers", answers)
    wrong = write(tmp_path / "a.jsonl", [{"question_id": 81, "model_id": "m", "choices": []}])
    assert "a.jsonl:1: `choices`: expected" in refused(tmp_path, capsys, usual(), "--answers", wrong)


@pytest.mark.skipif("MMALIGN_REAL_DATA" not in os.environ, reason="MMALIGN_REAL_DATA names no folder of real files")
def test_real_judgments_of_gpt_4(capsys):
    """800 of 800 grades are read again; one name stands for two sets of answers."""
    folder = Path(os.environ["MMALIGN_REAL_DATA"]) / "mt_bench"
    files = ["--judgments", str(folder / "gpt-4_single_judgments.jsonl"), "--questions", str(folder / "question.jsonl")]
    assert main(["score", "mt_bench", "--json", *files]) == 0
    found = json.loads(capsys.readouterr().out)
    metrics = {m["name"]: (round(m["value"], 2), m["n"], m["n_failed"]) for m in found["metrics"]}
    assert metrics["score [mistral-orpo, answers 1]"] == (5.39, 159, 1)
    assert metrics["score [mistral-orpo, answers 2]"] == (6.33, 160, 0)
    assert len(found["warnings"]) == 1 and "2 sets of answers" in found["warnings"][0]  # no grade is read otherwise
