"""Sampling in two processes, stopped in every way: nobody is left behind, and the files are those of a quiet run.

Interrupts and kills as a terminal, a scheduler and a machine short of memory give them, to real processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_llava import ask_about, save_image, save_tiny_llava

from annotate.journal import read_journal

ROOT = Path(__file__).parents[1]
PROMPTS = 160

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampling")
    save_tiny_llava(folder / "model")
    (folder / "images").mkdir()
    images = [save_image(folder / "images", f"{i}.png", seed=i) for i in range(3)]
    prompts = [ask_about(*images[: i % 3], text=f"What is number {i}?") for i in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p.to_json()) + "\n" for p in prompts))
    path = folder / "r.yaml"
    path.write_text(
        f"name: r\nruns: {folder}/runs\nseed: 3\nthreads: 1\nmodel: {folder}/model\n"
        f"prompts: {{file: {folder}/prompts.jsonl, image_root: {folder}/images}}\n"
        "sample: {n: 2, temperature: 1.0, max_new_tokens: 30, batch_size: 2}\n"
    )
    return path


class Sampling:
    """`align sample RECIPE` in a session of its own, whose processes can thus be told from all others."""

    def __init__(self, recipe: Path, name: str, workers: int) -> None:
        self.journal = recipe.parent / "runs" / name / "sample" / "journal.jsonl"
        self.before = self.lines()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "align", "sample", str(recipe), f"name={name}", f"sample.workers={workers}"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def lines(self) -> int:
        return len(read_journal(self.journal))

    def at_work(self) -> list[int]:
        """Wait until both have done something in this run; returns the workers."""
        deadline = time.monotonic() + 180
        while self.lines() < self.before + 3:
            assert self.process.poll() is None and time.monotonic() < deadline, self.process.communicate()[0]
            time.sleep(0.02)
        return sorted(pid for pid, command in self.alive().items() if "spawn_main" in command)

    def alive(self) -> dict[int, str]:
        """Process -> command line, of all in the session that are more than a name."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == self.process.pid:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:
                        found[int(entry.name)] = command
            except (ProcessLookupError, FileNotFoundError):
                continue
        return found

    def end(self, seconds: float = 30) -> tuple[int, str]:
        """Exit code and what was told; nobody of the session is left a moment later."""
        try:
            told, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError("did not end") from None
        deadline = time.monotonic() + 5
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        left = self.alive()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left
        return self.process.returncode, told


def test_stopped_in_every_way_it_leaves_nobody_behind_and_ends_with_the_same_files(recipe: Path) -> None:
    quiet = Sampling(recipe, "quiet", 1)
    assert quiet.end(300)[0] == 0

    def stop(name: str) -> tuple[int, str]:
        sampling = Sampling(recipe, "stopped", 2)
        workers = sampling.at_work()
        assert len(workers) == 2
        parent = sampling.process.pid
        match name:
            case "Ctrl-C, kill, Ctrl-C":  # a terminal tells the whole group
                os.killpg(parent, signal.SIGINT)
                time.sleep(0.1)
                os.kill(parent, signal.SIGTERM)
                time.sleep(0.1)
                os.killpg(parent, signal.SIGINT)
            case "kill -9 of a worker":
                os.kill(workers[0], signal.SIGKILL)
            case "kill -9":
                os.kill(parent, signal.SIGKILL)
        return sampling.end()

    code, told = stop("Ctrl-C, kill, Ctrl-C")
    assert (code, "interrupted; what is done so far is kept" in told) == (130, True), told
    assert "Traceback" not in told
    code, told = stop("kill -9 of a worker")
    assert code == 1
    assert "a sampling process was killed" in told
    assert "Traceback" not in told
    code, _ = stop("kill -9")
    assert code == -signal.SIGKILL
    last = Sampling(recipe, "stopped", 2)
    assert 9 <= last.before < PROMPTS // 2
    assert last.end(300)[0] == 0
    for file in ("completions.jsonl", "failures.jsonl"):
        wanted, found = (recipe.parent / "runs" / name / "sample" / file for name in ("quiet", "stopped"))
        assert found.read_bytes() == wanted.read_bytes()
