"""Scoring 100,000 recorded answers with intervals, beside pandas and scikit-learn:  python bench/bench_score.py

POPE's files of 100,000 made-up answers about 16,667 images are read, joined, scored and resampled 1,000 times by image:
`align score pope` takes all its 20 measures; the peer is the script people write, pandas for the join and
scikit-learn's `f1_score` over resampled images for the F1 of each split, that is 3 of the 20. The peer resamples 30
times and is charged 1,000. Both F1 must be equal to the last bits and the widths of their intervals alike.
Then the judged benchmarks with as many judgments, and CIDEr-D of 5,000 images with 5 references each, seconds alone:
who scores those puts no interval on them, and CIDEr-D's usual peer needs Java.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

# This file's folder, which Python puts first, would hide the package `annotate` behind the script beside this one.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from align.benchmarks.cider import cider_d  # noqa: E402
from align.benchmarks.pope_files import POPE_SCORER, SPLITS  # noqa: E402
from align.benchmarks.sheet import Files, Result, take  # noqa: E402
from align.cli import main as align  # noqa: E402
from bench.score_rig import JUDGED  # noqa: E402

DRAWS, PEER_DRAWS = 1000, 30
OBJECTS = ("cat", "dog", "bus", "cup", "kite", "chair")


def write(folder: Path, n: int) -> Files:
    """Questions, labels and answers (right in 85 of 100) of n rows; six questions to an image."""
    rng = random.Random(0)
    labels: dict[str, list[str]] = {split: [] for split in SPLITS}
    with (folder / "questions.jsonl").open("w") as questions, (folder / "answers.jsonl").open("w") as answers:
        for i in range(n):
            image, text, split = f"{i // 6:06d}.jpg", f"Is there a {OBJECTS[i % 6]}?", SPLITS[i // 6 % 3]
            label = rng.choice(["yes", "no"])
            said = label if rng.random() < 0.85 else {"yes": "no", "no": "yes"}[label]
            about = {"question_id": i, "image": image, "text": text}
            labels[split].append(json.dumps(about | {"label": label}))
            questions.write(json.dumps(about | {"category": split}) + "\n")
            answers.write(json.dumps({"question_id": i, "text": said.title()}) + "\n")
    for split, lines in labels.items():
        (folder / f"coco_pope_{split}.json").write_text("\n".join(lines) + "\n")
    return Files(answers=(folder / "answers.jsonl",), questions=(folder / "questions.jsonl",), labels=(folder,))


def peer(folder: Path) -> tuple[dict[str, tuple[float, float]], float]:
    """Split -> F1 and width of its 95% interval; and seconds, resamples charged as `DRAWS`."""
    started = time.process_time()
    asked = pd.read_json(folder / "questions.jsonl", lines=True)
    said = pd.read_json(folder / "answers.jsonl", lines=True)[["question_id", "text"]]
    joined = asked.merge(said, on="question_id", suffixes=("", "_said"))
    truths = pd.concat(
        pd.read_json(folder / f"coco_pope_{split}.json", lines=True).assign(category=split) for split in SPLITS
    )
    joined = joined.merge(truths[["category", "image", "text", "label"]], on=["category", "image", "text"])
    once = time.process_time() - started
    found, resampling = {}, 0.0
    for split, rows in joined.groupby("category"):
        truth = (rows["label"] == "yes").to_numpy()
        yes = (rows["text_said"] == "Yes").to_numpy()
        images = list(rows.groupby("image").indices.values())
        rng = np.random.default_rng(0)
        started = time.process_time()
        drawn = []
        for _ in range(PEER_DRAWS):
            chosen = np.concatenate([images[i] for i in rng.integers(0, len(images), len(images))])
            drawn.append(f1_score(truth[chosen], yes[chosen]))
        resampling += time.process_time() - started
        found[str(split)] = (float(f1_score(truth, yes)), float(2 * 1.96 * np.std(drawn)))
    return found, once + resampling * DRAWS / PEER_DRAWS


def captions(n: int) -> float:
    """Seconds of CIDEr-D."""
    rng = random.Random(0)
    words = [f"word{i}" for i in range(4000)]
    texts = [" ".join(rng.choices(words, k=11)) + "." for _ in range(6 * n)]
    candidates = {str(i): texts[i] for i in range(n)}
    references = {str(i): texts[n + 5 * i : n + 5 * i + 5] for i in range(n)}
    started = time.process_time()
    assert len(cider_d(candidates, references)) == n
    return time.process_time() - started


def judged(name: str, n: int) -> float:
    """Seconds of `align score` over n judgments; every number must lie within its interval."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
        call = JUDGED[name](Path(folder), n)
        started = time.process_time()
        assert align(["score", *call, "--draws", str(DRAWS), "--json"]) == 0
        seconds = time.process_time() - started
    metrics = json.loads(printed.getvalue())["metrics"]
    assert all(m["low"] <= m["value"] <= m["high"] for m in metrics if m["name"] != "judge_sd"), metrics
    return seconds


def check(ours: Result, theirs: dict[str, tuple[float, float]]) -> float:
    """The largest relative difference of F1; raises if intervals are of another kind."""
    figures = {figure.name: figure for figure in ours.figures}
    worst = 0.0
    for split, (f1, width) in theirs.items():
        mine = figures[f"f1_{split}"]
        assert mine.value is not None and mine.low is not None and mine.high is not None
        worst = max(worst, abs(mine.value - f1) / f1)
        assert 0.5 < (mine.high - mine.low) / width < 2, (split, mine, width)
    assert worst < 1e-12, worst
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    options = parser.parse_args()
    n = 10_000 if options.quick else 100_000
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name), n)
        started = time.process_time()
        ours = take(POPE_SCORER, files, draws=DRAWS)
        seconds = time.process_time() - started
        theirs, their_seconds = peer(Path(name))
    differs = check(ours, theirs)
    others = {name: judged(name, n) for name in JUDGED} | {"cider_d": captions(n // 20)}
    print(f"{n:,} answers, {len(ours.figures)} measures, {DRAWS:,} resamples of images: {seconds:.1f} s")
    print(f"pandas and scikit-learn, 3 measures: {their_seconds:.1f} s")
    for name, took in others.items():
        print(f"{name}: {took:.1f} s")
    line = {
        "bench": "scoring recorded answers with intervals",
        "peer": "pandas + scikit-learn, 3 of the 20 measures",
        "ratio": round(their_seconds / seconds, 2),
        "bound": None,
        "max_rel_diff": differs,
        "ours": {"cpu_seconds": round(seconds, 2), "measures": len(ours.figures)}
        | {f"{name}_cpu_seconds": round(took, 2) for name, took in others.items()},
        "theirs": {"cpu_seconds": round(their_seconds, 2), "measures": 3},
        "machine": f"{platform.machine()}, 1 thread",
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
