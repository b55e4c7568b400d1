"""A finished evaluation written down by hand: right and wrong answers as strings of 1 and 0."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from align.benchmarks.measures import Outcome, estimate
from align.benchmarks.suites import SUITES
from annotate.jsonl import dump_line
from annotate.records import Item, Manifest, Metric, replace

SHA = {"backbone": "aa" * 32, "vlm": "bb" * 32, "dpo": "cc" * 32, "sft": "dd" * 32}


def value_of(suite: str, mark: str) -> dict[str, float]:
    """What a right (1) or wrong (0) answer is worth; every second truth of POPE is yes."""
    right = float(mark)
    if suite == "pope":
        return {"accuracy": right, "yes": right, "truth": 1.0, "n_words": 1.0}
    return {"headline": right, "exact": right, "form": 1.0, "n_words": 2.0}


def write_run(
    folder: Path,
    answers: Mapping[str, Mapping[str, str]],
    *,
    seed: int = 0,
    parser: str = "",
    tokens: int = 40,
    shown: str = "as written",
    images: int = 0,
    category: str = "",
    rows: Mapping[str, int] | None = None,
    weights: Mapping[str, str] = SHA,
) -> Path:
    """`answers`: suite -> model -> one mark per question: 1 right, 0 wrong, ? unreadable.

    `images`: how many questions share each image, in the order of the questions (0: none is recorded). `category`:
    names that questions have in turn. `rows`: how many rows each training stage was trained on.
    """
    models = list(dict.fromkeys(m for of_suite in answers.values() for m in of_suite))
    items, metrics = [], []
    for suite, of_suite in answers.items():
        for model, marks in of_suite.items():
            mine = [
                Item(
                    id=f"q{i:03}",
                    suite=suite,
                    model=model,
                    model_sha256=weights[model],
                    decoding={"temperature": 0.0, "max_new_tokens": tokens},
                    input_sha256=f"{suite} {i} {shown}",
                    output=mark,
                    parser=parser or SUITES[suite].parser,
                    value={} if mark == "?" else value_of(suite, mark),
                    state="unparsed" if mark == "?" else "ok",
                )
                for i, mark in enumerate(marks)
            ]
            items += mine
            scored = [Outcome(id=i.id, value=i.value, state=i.state) for i in mine]
            for measure in SUITES[suite].measures:
                found = estimate(measure, scored, draws=200)
                metrics.append(Metric(suite=suite, model=model, **asdict(found)))
    verdicts = {
        "schema": "verdicts/1",
        "margin": 0.02,
        "models": {m: weights[m] for m in models},
        "suites": [
            {"suite": s, "text": SUITES[s].text, "control": False, "headline": SUITES[s].headline, "n": len(marks)}
            for s, of_suite in answers.items()
            for marks in [next(iter(of_suite.values()))]
        ],
        "regression": [],
        "comparisons": [],
        "controls": [],
        "warnings": [],
    }
    made = folder / "evaluate"
    made.mkdir(parents=True)
    (made / "items.jsonl").write_text("".join(map(dump_line, items)), encoding="utf-8")
    (made / "metrics.jsonl").write_text("".join(map(dump_line, metrics)), encoding="utf-8")
    (made / "verdicts.json").write_text(json.dumps(verdicts), encoding="utf-8")
    if images or category:
        names = category.split() or [""]
        places = {
            s: {f"q{i:03}": [f"image {i // images}" if images else "", names[i % len(names)], ""] for i in range(999)}
            for s in answers
        }
        (made / "questions.json").write_text(json.dumps({"schema": "questions/1", "suites": places}), encoding="utf-8")
    manifest = Manifest(
        stage="evaluate",
        identity_sha256="ee" * 32,
        identity={},
        inputs={},
        outputs={},
        units=len(items),
        failures=0,
        funnel={},
        seeds={"seed": seed},
    )
    (made / "manifest.json").write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    for stage, n in (rows or {}).items():
        trained = replace(manifest, stage=stage, funnel={"rows trained on": n})
        (folder / stage).mkdir()
        (folder / stage / "manifest.json").write_text(json.dumps(trained.to_json()), encoding="utf-8")
    return folder
