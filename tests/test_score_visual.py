"""`align score` ai2d, gqa, realworldqa, oodcv_vqa, sketchy_vqa: published questions, answers joined on their ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.benchmarks.realworldqa import taken_apart
from align.benchmarks.unicorn import OODCV_OFFICIAL, SKETCHY_OFFICIAL, score_oodcv, score_sketchy
from align.cli import main


def save(path: Path, value: Any) -> Path:
    """A list as JSON Lines where the name says so, else one JSON value."""
    text = "".join(json.dumps(row) + "\n" for row in value) if path.suffix == ".jsonl" else json.dumps(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def score(capsys, name: str, *arguments: object) -> dict:
    assert main([*map(str, ("score", name, *arguments, "--json", "--draws", 100, "--least-coverage", 0.3))]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    return {m["name"]: (m["value"], m["n"], m["n_failed"]) for m in found if m["n"] + m["n_failed"]}


def refused(capsys, name: str, *arguments: object) -> str:
    assert main([*map(str, ("score", name, *arguments))]) == 2
    return capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- ai2d


def test_ai2d_from_its_own_folder_and_split(tmp_path, capsys):
    asked = {
        "What is A?": {"questionId": "0.png-0", "answerTexts": ["leaf", "root"], "correctAnswer": 1},
        "What is B?": {"questionId": "0.png-1", "answerTexts": ["leaf", "root"], "correctAnswer": 0},
    }
    save(tmp_path / "ai2d" / "questions" / "0.png.json", {"imageName": "0.png", "questions": asked})
    other = {"What is C?": {"questionId": "1.png-0", "answerTexts": ["egg", "hen"], "correctAnswer": 0}}
    save(tmp_path / "ai2d" / "questions" / "1.png.json", {"imageName": "1.png", "questions": other})
    (tmp_path / "ai2d_test_ids.csv").write_text("0\n")
    said = [{"question_id": "0.png-0", "text": "B. root"}, {"question_id": "0.png-1", "text": "root"}]
    answers = save(tmp_path / "a.jsonl", said)
    files = ("--answers", answers, "--questions", tmp_path / "ai2d")
    assert score(capsys, "ai2d", *files, "--labels", tmp_path / "ai2d_test_ids.csv") == {"accuracy": (0.5, 2, 0)}
    assert score(capsys, "ai2d", *files) == {"accuracy": (0.5, 2, 1)}  # without the split 1.png is asked about too


def test_ai2d_from_lines_with_an_index_and_from_a_table_with_letters(tmp_path, capsys):
    lines = [{"id": i, "question": "Which?", "options": ["x", "y"], "answer": str(i), "image": "0.png"} for i in (0, 1)]
    answers = save(tmp_path / "a.jsonl", [{"id": 0, "prediction": "A"}, {"id": 1, "prediction": "neither"}])
    questions = save(tmp_path / "q.jsonl", lines)
    assert score(capsys, "ai2d", "--answers", answers, "--questions", questions) == {"accuracy": (1.0, 1, 1)}
    table = tmp_path / "q.tsv"
    table.write_text(
        "index\tquestion\tA\tB\tC\tanswer\timage\n0\tWhich?\tx\ty\t\tA\t0.png\n1\tWhich?\tx\ty\t\tB\t0.png\n"
    )
    assert score(capsys, "ai2d", "--answers", answers, "--questions", table) == {"accuracy": (1.0, 1, 1)}
    lines[1]["answer"] = "2"
    said = refused(capsys, "ai2d", "--answers", answers, "--questions", save(questions, lines))
    assert "q.jsonl:2: `answer`: expected the index or letter of one of 2 options, found '2'" in said


# ----------------------------------------------------------------------------------------------------------------- gqa


def test_gqa_is_exact_after_case_and_period(tmp_path, capsys):
    def asked(answer: str, structure: str) -> dict:
        return {"question": "Is it?", "imageId": "n1", "answer": answer, "types": {"structural": structure}}

    questions = {"1": asked("no", "verify"), "2": asked("bus stop", "query"), "3": asked("dog", "query")}
    questions["4"] = asked("left", "choose")
    save(tmp_path / "q.json", questions)
    said = ["No.", "Bus stop", "the dog", ""]
    predictions = [{"questionId": str(i), "prediction": text} for i, text in enumerate(said, 1)]
    files = ("--answers", save(tmp_path / "p.json", predictions), "--questions", tmp_path / "q.json")
    assert score(capsys, "gqa", *files) == {
        "accuracy": (pytest.approx(2 / 3), 3, 1),
        "accuracy_open": (0.5, 2, 0),
        "accuracy_binary": (1.0, 1, 1),
    }


# --------------------------------------------------------------------------------------------------------- realworldqa


def test_realworldqa_is_read_by_what_the_truth_is(tmp_path, capsys):
    letters = "What is ahead?\nA. a bend\nB. a bus\nPlease answer directly with only the letter of the correct option."
    questions = [
        {"image": "0.webp", "question": letters, "answer": "B"},
        {"image": "1.webp", "question": "Is it wet?\nPlease answer directly with a single word.", "answer": "Yes"},
        {"image": "2.webp", "question": "How many cars are there?", "answer": "2"},
        {"image": "2.webp", "question": "And how many lorries?", "answer": "0"},
    ]
    said = [
        {"image": "0.webp", "text": "B."},
        {"image": "1.webp", "text": "It might be."},  # neither yes nor no
        {"image": "2.webp", "text": "2."},
        {"image": "2.webp", "question": "And how many lorries?", "text": "3"},
    ]
    files = ("--answers", save(tmp_path / "a.jsonl", said), "--questions", save(tmp_path / "q.jsonl", questions))
    assert score(capsys, "realworldqa", *files) == {"accuracy": (pytest.approx(2 / 3), 3, 1)}
    said[3]["question"] = "How many cars are there?"
    save(tmp_path / "a.jsonl", said)
    assert "a.jsonl:4: answers another question than 2.webp#2 asks" in refused(capsys, "realworldqa", *files)


def test_a_question_is_taken_apart():
    said = "Which way?\n\nA. left\nB. right\nPlease answer directly with only the letter."
    assert taken_apart(said) == ("Which way?", ["left", "right"], "Please answer directly with only the letter.")
    assert taken_apart("Is it?\nPlease answer yes or no.") == ("Is it?", [], "Please answer yes or no.")
    assert taken_apart("Which?\nB. left\nA. right")[1] == []  # not in the order of their letters


# ------------------------------------------------------------------------------------------------------------- unicorn


@pytest.mark.parametrize(
    ("text", "truth", "strict", "official"),
    [
        ("Yes, there is.", "Yes", 1, 1),
        ("There is none.", "0", 1, 1),
        ("There are no dogs.", "0", 1, 1),
        ("There are two dogs.", "2", 1, 1),
        ("Two dogs.", "2", 1, 0),  # Unicorn's letters are small ones
        ("There are 12 dogs.", "2", 0, 1),  # and found within others
        ("Two or three.", "2", None, 0),
        ("I cannot tell.", "Yes", None, 0),
        ("", "Yes", None, None),
    ],
)
def test_oodcv(text, truth, strict, official):
    assert score_oodcv(text, truth).value.get("accuracy") == strict
    assert score_oodcv(text, truth, OODCV_OFFICIAL).value.get("accuracy") == official


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("Yes, it is a cat", 1, 1),
        ("Yes.", 1, None),  # Unicorn keeps the period with the word
        ("It is not.", 0, None),
        ("No, not yes", None, 0),
        ("A cat", None, None),
    ],
)
def test_sketchy(text, strict, official):
    assert score_sketchy(text, "Yes").value.get("accuracy") == strict
    assert score_sketchy(text, "Yes", SKETCHY_OFFICIAL).value.get("accuracy") == official


def test_unicorns_own_answer_files_hold_the_truth(tmp_path, capsys):
    made = {
        "a.jpg": {"prediction": "Yes.", "answer": "Yes", "situation": "weather"},
        "b.jpg": {"prediction": "three", "answer": "2", "situation": "pose"},
        "c.jpg": {"prediction": "", "answer": "2", "situation": "pose"},
    }
    found = score(capsys, "oodcv_vqa", "--answers", save(tmp_path / "oodcv.json", made))
    assert found == {"accuracy": (0.5, 2, 1), "accuracy_yes_no": (1.0, 1, 0), "accuracy_number": (0.0, 1, 1)}
    sketched = [{"answer": "Yes", "label": "Yes", "image_path": "1.png"}]
    sketched += [{"answer": "No", "label": "Yes", "image_path": "1.png"}]
    found = score(capsys, "sketchy_vqa", "--answers", save(tmp_path / "sketchy.json", sketched))
    assert (found["accuracy"], found["f1"], found["yes_ratio"][0]) == ((0.5, 2, 0), (pytest.approx(2 / 3), 2, 0), 0.5)
    sketched[1] = {"text": "No", "image_path": "2.png"}
    said = refused(capsys, "sketchy_vqa", "--answers", save(tmp_path / "sketchy.json", sketched))
    assert "sketchy.json:2: no field `label`, which holds the truth; give the questions" in said


def test_unicorns_questions_with_answers_by_image(tmp_path, capsys):
    questions = [
        {"image": "a.jpg", "question": "Is it?", "answer": "A", "text_answer": "Yes", "options": ["Yes", "No"]},
        {"image": "b.jpg", "question": "How many?", "answer": "B", "text_answer": "2", "options": ["1", "2"]},
    ]
    save(tmp_path / "q.json", questions)
    answers = save(tmp_path / "a.jsonl", [{"id": "a.jpg", "text": "Yes"}, {"id": "b.jpg", "text": "It is 2"}])
    files = ("--answers", answers, "--questions", tmp_path / "q.json")
    assert score(capsys, "oodcv_vqa", *files)["accuracy"] == (1.0, 2, 0)
    save(answers, [{"id": "c.jpg", "text": "Yes"}, {"id": "a.jpg", "text": "Yes"}, {"id": "a.jpg", "text": "No"}])
    assert "a.jsonl:3: `id` a.jpg occurs twice, first in line 2" in refused(capsys, "oodcv_vqa", *files)
    save(answers, [{"id": "c.jpg", "text": "Yes"}])
    assert "a.jsonl:1: answers a question that is not asked" in refused(capsys, "oodcv_vqa", *files)
    save(answers, [{"id": "a.jpg", "said": "Yes"}])
    assert "a.jsonl:1: no field `text` or `prediction`" in refused(capsys, "oodcv_vqa", *files)
    questions[1]["text_answer"] = "a few"
    save(tmp_path / "q.json", questions)
    assert "q.json:2: `text_answer`, `label` or `answer`: expected yes, no or a number" in refused(
        capsys, "oodcv_vqa", *files
    )


# ----------------------------------------------------------------------------------------------- the official programs
# visual.json: made-up answers, and what MME's calculation (as Sight Beyond Text runs it, 12 tasks of 10 answers) and
# Unicorn's two evaluations made of them.

GOLDEN = json.loads((Path(__file__).parent / "benchmark_golden" / "visual.json").read_text(encoding="utf-8"))


def test_mme_is_what_its_own_program_says(tmp_path, capsys):
    for task, answers in GOLDEN["mme"]["answers"].items():
        (tmp_path / f"{task}.txt").write_text("".join("\t".join(row) + "\n" for row in answers))
    found = score(capsys, "mme", "--answers", tmp_path)
    scores = {name: value for name, value in GOLDEN["mme"]["scores"].items() if name != "total"}
    assert {task: found[f"score_{task}"][0] for task in scores} == pytest.approx(scores)
    sums = [found[name][0] for name in ("perception_without_landmark_artwork", "cognition")]
    assert sums == pytest.approx(GOLDEN["mme"]["totals"])


def test_unicorns_readings_are_what_its_own_programs_say(tmp_path, capsys):
    assert len(GOLDEN["oodcv"]) == 120
    for text, truth, right in GOLDEN["oodcv"]:
        assert score_oodcv(text, truth, OODCV_OFFICIAL).value["accuracy"] == right, (text, truth)
    answers = save(tmp_path / "sketchy.json", GOLDEN["sketchy"]["answers"])
    found = score(capsys, "sketchy_vqa", "--answers", answers, "--parser", "official")
    official = GOLDEN["sketchy"]["values"][:4]  # its share of yes is of all answers, also of those that say neither
    assert [found[name][0] for name in ("accuracy", "precision", "recall", "f1")] == pytest.approx(official)
