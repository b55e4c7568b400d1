"""Made-up judgments in the layouts of the judged benchmarks, for bench_score.py: each writes n and returns its call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


def mt_bench(folder: Path, n: int) -> list[str]:
    """Both turns of 80 questions by 625 models: a table of 6,875 measures."""

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(n):
            model, question, turn = i // 160, 81 + i // 2 % 80, 1 + i % 2
            yield {
                "question_id": question, "model": f"m{model}", "judge": ["gpt-4", "single-v1"], "turn": turn,
                "user_prompt": f"{question} [The Start of Assistant's Answer]\n{'x ' * (i % 90)}\n"
                "[The End of Assistant's Answer]",
                "judgment": f"Well said. Rating: [[{1 + i % 10}]]", "score": 1 + i % 10, "tstamp": float(i),
            }  # fmt: skip

    (folder / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return ["mt_bench", "--judgments", str(folder / "f.jsonl")]


def llava_bench(folder: Path, n: int) -> list[str]:
    kinds = ("conv", "detail", "complex")
    paths = [folder / f"run{run}.jsonl" for run in range(4)]
    for path in paths:
        rows = (
            {"question_id": i, "category": kinds[i % 3], "content": f"8 {i % 11}\nWhy.", "tuple": [8, i % 11]}
            for i in range(n // 4)
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["llava_bench", "--judgments", *map(str, paths)]


def mm_vet(folder: Path, n: int) -> list[str]:
    grades = {
        f"v1_{i}": {"model": ["gpt-4"] * 5, "content": [f"0.{(i + run) % 10}" for run in range(5)],
                    "score": [(i + run) % 10 / 10 for run in range(5)]}
        for i in range(n // 5)
    }  # fmt: skip
    questions = {
        f"v1_{i}": {"question": "?", "answer": "!", "capability": list(CAPABILITIES[i % 6 : i % 6 + 1 + i % 3])}
        for i in range(n // 5)
    }
    (folder / "grade.json").write_text(json.dumps(grades))
    (folder / "mm-vet.json").write_text(json.dumps(questions))
    return ["mm_vet", "--judgments", str(folder / "grade.json"), "--questions", str(folder / "mm-vet.json")]


def alpaca_eval(folder: Path, n: int) -> list[str]:
    rows = [
        {"instruction": f"Q{i}", "output_1": "x" * (i * 7 % 900), "generator_1": "b", "output_2": "y" * (i * 11 % 900),
         "generator_2": "m", "annotator": "gpt-4", "preference": 1 + i * 13 % 10 / 9}
        for i in range(n)
    ]  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(rows))
    return ["alpaca_eval", "--judgments", str(folder / "annotations.json")]


JUDGED = {
    "mt_bench": mt_bench,
    "llava_bench": llava_bench,
    "mm_vet": mm_vet,
    "alpaca_eval": alpaca_eval,
}
