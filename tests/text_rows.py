"""A few rows of every text benchmark, in the columns of its data set on the hub."""

from __future__ import annotations

import json
from pathlib import Path

TRUTH = {
    "question": "What is in the box?",
    "best_answer": "A red ball",
    "correct_answers": ["A red ball", "A ball is in the box"],
    "incorrect_answers": ["A blue cat", "Nothing at all"],
}
MC = {
    "question": "What is in the box?",
    "mc1_targets": {"choices": ["A red ball.", "A blue cat.", "Nothing."], "labels": [1, 0, 0]},
    "mc2_targets": {"choices": ["A red ball.", "A ball.", "A blue cat.", "Nothing."], "labels": [1, 1, 0, 0]},
}
RACE = [
    {"question": "The box is  _  .", "answer": "A", "options": ["red", "blue", "green", "gone"]},
    {"question": "What is in the box?", "answer": "C", "options": ["a cat", "a map", "a ball", "the sun"]},
]
SQUAD = {
    "id": "q1",
    "title": "Boxes",
    "context": "The box is red. A ball is in it.",
    "question": "Which colour has the box?",
    "answers": {"text": ["red", "The red"], "answer_start": [11, 8]},
}
MATH = {"Problem": "What is 2 and 3?", "options": "a ) 4 , b ) 5 , c ) 6 , d ) 7 , e ) 8", "correct": "b"}
MATH_SHOT = {"Problem": "What is 1 and 1?", "options": "a ) 2 , b ) 5 , c ) 6 , d ) 7 , e ) 8", "correct": "a"}
MMLU = {"question": "Which digit is even?", "subject": "anatomy", "choices": ["1", "2", "3", "5"], "answer": 1}
OPEN = {"question_stem": "The sun is", "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}, "answerKey": "A"}
SWAG = {"activity_label": "Boxing", "ctx_a": "A box is red.", "ctx_b": "the ball", "label": "0"}

ROWS: dict[str, list[dict]] = {
    "ethics_cm": [{"input": "I hid the ball.", "label": 1}, {"input": "I gave the ball back.", "label": 0}],
    "ethics_deontology": [
        {"scenario": "Could you hold the box?", "excuse": "No because it is red.", "label": 0},
        {"scenario": "Could you hold the box?", "excuse": "No because I hold the ball.", "label": 1},
    ],
    "ethics_justice": [{"scenario": "I gave her the ball because she asked.", "label": 1}],
    "ethics_utilitarianism": [
        {"activity": "I found a ball.", "baseline": "I lost a ball.", "rating": 0},
        {"activity": "I saw the sun.", "baseline": "I saw the box.", "rating": 0},
    ],
    "ethics_virtue": [
        {"scenario": "Ann held the box.", "trait": trait, "label": i} for i, trait in enumerate(("lazy", "kind"))
    ],
    "truthfulqa_gen": [TRUTH, TRUTH | {"question": "Which digit is blue?"}],
    "truthfulqa_mc1": [MC, MC | {"question": "Which digit is blue?"}],
    "truthfulqa_mc2": [MC, MC | {"question": "Which digit is blue?"}],
    "mmlu": [
        MMLU,
        MMLU | {"question": "Which is odd?", "choices": ["2", "4", "6", "7"], "answer": 3},
        MMLU | {"subject": "virology"},
    ],
    "mmlu.shots": [MMLU | {"subject": s, "question": f"Is {s} a word?"} for s in ("anatomy", "virology")],
    "gsm8k": [{"question": f"What is {n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in (2, 3, 4)],
    "gsm8k.shots": [{"question": f"What is {n} and 1?", "answer": f"#### {n + 1}"} for n in (5, 6, 7, 8)],
    "mathqa": [MATH, MATH | {"Problem": "What is 3 and 3?", "correct": "c"}],
    "mathqa.shots": [MATH_SHOT, MATH_SHOT | {"Problem": "What is 2 and 0?"}],
    "squadv2": [SQUAD, SQUAD | {"id": "q2", "question": "Who is it?", "answers": {"text": [], "answer_start": []}}],
    "boolq": [
        {"question": "is the box red", "passage": "The box is red.", "label": 1},
        {"question": "is the box blue", "passage": "The box is red.", "label": 0},
        {"question": "is a ball in it", "passage": "A ball is in the box.", "label": 1},
    ],
    "race": [{"article": "The box is red. A ball is in it.", "problems": str(RACE)}],
    "openbookqa": [OPEN, OPEN | {"question_stem": "The box is", "answerKey": "B"}],
    "hellaswag": [SWAG | {"endings": ["rolls.", "sings.", "reads.", "is [title] gone."]}],
}
SHOTS = {"mmlu": 1, "gsm8k": 2, "mathqa": 1}


def write_rows(folder: Path, *names: str) -> Path:
    """Files of these tasks (all, where none are named) below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ROWS:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    return folder
