"""A tiny LLaVA, MT-Bench's files in small, and a recipe that has its answers judged: for tests and one benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUESTIONS = (
    {"question_id": 81, "category": "writing", "turns": ["Name three fruits.", "Name a digit."]},
    {"question_id": 101, "category": "reasoning", "turns": ["Which digit is blue?", "Is there a red digit?"]},
    {"question_id": 131, "category": "extraction", "turns": ["Is there a red digit in the picture?", "Name fruits."]},
    {"question_id": 141, "category": "stem", "turns": ["Which digit is red?", "Name a pear."]},
)
REFERENCE = {"question_id": 101, "model_id": "gpt-4", "choices": [{"index": 0, "turns": ["The 4.", "Yes, the 7."]}]}


def write_lines(path: Path, rows: Sequence[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def mt_bench_files(folder: Path, questions: Sequence[Any] = QUESTIONS) -> dict[str, str]:
    """`evaluate.files.mt_bench`."""
    return {
        "questions": write_lines(folder / "question.jsonl", questions),
        "references": write_lines(folder / "gpt-4.jsonl", [REFERENCE]),
    }


def judge(url: str, **more: Any) -> dict[str, Any]:
    """A judge at the loopback service."""
    options = {"base_url": f"{url}/v1", "paid": False}
    return {"backend": "openai_chat", "model": "gpt-test", "options": options, "answer_tokens": 6, **more}


def recipe(folder: Path, model: Path, suites: Sequence[str], files: dict[str, Any], judge: dict[str, Any]) -> Path:
    """A recipe of one stage, as a file."""
    block = {"suites": list(suites), "files": files, "judge": judge, "batch_size": 2}
    path = folder / "judged.yaml"
    path.write_text(
        f"name: judged\nmodel: {model}\nthreads: 1\nruns: {folder / 'runs'}\nevaluate: {json.dumps(block)}\n"
    )
    return path
