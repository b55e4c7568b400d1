"""The whole road under `kill -9`: 20 kills spread over all stages, and the final files are those of a quiet run.

A small recipe with every stage (language, connect, tune, sample, annotate, teach, pairs, dpo, steerlm, rejection, sft,
evaluate, report), run once undisturbed and once by a process that is killed again and again at random moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = "language connect tune sample annotate teach pairs dpo steerlm rejection sft evaluate report".split()
# Not outputs: the journal holds times and attempts, the manifest seconds, `work` private checkpoints.
PRIVATE = {"journal.jsonl", "manifest.json", "work"}

pytestmark = pytest.mark.slow


def command(recipe: Path, runs: Path) -> list[str]:
    return [sys.executable, "-m", "align", "run", str(recipe), f"runs={runs}", "--json"]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def outputs(run: Path) -> dict[str, str]:
    """Every compiled file of every stage with its hash."""
    found = {}
    for stage in STAGES:
        for path in sorted((run / stage).rglob("*")):
            inside = path.relative_to(run / stage)
            if path.is_file() and inside.parts[0] not in PRIVATE and not path.name.startswith("."):
                found[f"{stage}/{inside}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road")
    subprocess.run(
        [sys.executable, str(ROOT / "data/prepare_demo.py"), "--out", str(folder / "demo"), "--small"], check=True
    )
    text = (ROOT / "tests/road.yaml").read_text().replace("DEMO", str(folder / "demo"))
    (folder / "road.yaml").write_text(text)
    return folder


def run_until_killed(arguments: list[str], log: Path, after: float, reached: Path) -> int:
    """Start the run, kill its whole process group `after` seconds after `reached` is there; its exit code (or -9)."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=environment(), stdout=stream, stderr=stream, start_new_session=True
        )
        while not reached.exists() and process.poll() is None:
            time.sleep(0.01)
        try:
            return process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


def test_twenty_kills_leave_the_files_of_a_quiet_run(world: Path) -> None:
    recipe = world / "road.yaml"
    started = time.monotonic()
    done = subprocess.run(command(recipe, world / "quiet"), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    whole = time.monotonic() - started
    wanted = outputs(world / "quiet" / "road")
    assert {name.split("/")[0] for name in wanted} == set(STAGES)

    draw = random.Random(20)
    kills, copies, interrupted = 0, 0, set()
    log = world / "killed.log"
    while kills < 20:
        # One copy after another: killed until it is finished, then held against the quiet run.
        runs, code = world / f"killed-{copies}", -signal.SIGKILL
        while code != 0:
            # A run dies as it begins a stage, in its midst, or in the next; after the 20th kill, none does.
            left = [s for s in STAGES if not (runs / "road" / s / "manifest.json").exists()]
            reached = runs / "road" / draw.choice(left[:3])
            after = draw.uniform(*((0.03, 0.3) if reached.exists() else (0, 0.05))) * whole if kills < 20 else 600
            code = run_until_killed(command(recipe, runs), log, after, reached)
            assert code in (0, -signal.SIGKILL), log.read_text()[-3000:]
            if code != 0:
                kills += 1
                finished = {s for s in STAGES if (runs / "road" / s / "manifest.json").exists()}
                interrupted.add(next((s for s in STAGES if s not in finished), "the end"))
        assert outputs(runs / "road") == wanted
        copies += 1
    print(
        json.dumps({"kills": kills, "copies": copies, "killed in": sorted(interrupted), "quiet seconds": round(whole)})
    )
    assert len(interrupted) >= 4  # more in truth: each copy is killed in stages drawn anew
