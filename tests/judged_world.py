"""A tiny LLaVA, MT-Bench's files in small, and a recipe that has its answers judged: for tests and one benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.digest import model_digest
from align.evaluate.stage import EvaluateWork, work
from align.recipe import load_recipe

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


@dataclass
class Context:
    """What the runner hands the stage."""

    recipe: Any
    model: Path
    model_sha256: str
    backbone: None = None
    also: dict[str, Any] = field(default_factory=dict)
    stage: str = "evaluate"

    def has(self, stage: str) -> bool:
        return False

    def path(self, stage: str, name: str) -> Path:
        raise AssertionError("no other stage is there")


def load_stage(folder: Path, model: Path, suites: list[str], files: dict[str, Any], by: dict[str, Any]) -> EvaluateWork:
    found = load_recipe(recipe(folder, model, suites, files, by))
    return work(Context(found, model, model_digest(model)))


def run(stage: EvaluateWork, workspace: Path, lines: dict[str, Any] | None = None) -> dict[str, Any]:
    kept = {} if lines is None else lines
    stage.recall(kept, workspace)
    pending = [unit for unit in stage.units if unit.key not in kept]
    stage.execute(pending, lambda key, line: kept.update({key: json.loads(json.dumps(line))}), workspace, _quiet)
    return kept


def _quiet(done: int, total: int, note: str = "") -> None:
    """Nobody looks."""
