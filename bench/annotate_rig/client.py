"""Runs a client, ours or a peer's, as a process of its own, and says what became of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_run

from bench.annotate_rig.world import World

HERE = Path(__file__).resolve().parent
PEERS = {
    "inspect_ai": ("inspect-ai", "inspect_run.py"),
    "curator": ("bespokelabs-curator", "curator_run.py"),
    "distilabel": ("distilabel", "distilabel_run.py"),
    "naive openai client": ("", "naive_run.py"),
}
"""Name -> its environment below `--peers` (none: ours) and its driver."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    code: int | None
    """None: it was cut off at its time limit."""
    started: float
    """On the monotonic clock, which all processes of a machine share."""
    seconds: float
    cpu_seconds: float
    peak_mib: float
    out: str
    """The last of what it wrote to both streams."""


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    limit: float,
    watch: Callable[[int], bool] | None = None,
) -> Ran:
    """The command to its end, or to `limit` seconds, or until `watch(pid)` says to kill it (its whole group)."""
    with tempfile.TemporaryFile() as stream:
        started = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=stream, stderr=stream, env=dict(environment), start_new_session=True
        )
        code: int | None = None
        killed = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                code = None if killed else process.returncode
                break
            if not killed and (time.monotonic() - started > limit or (watch and watch(process.pid))):
                killed = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        seconds = time.monotonic() - started
        if killed or code:
            _end_group(process.pid)
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4000))
        return Ran(
            code=code,
            started=started,
            seconds=seconds,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_mib=usage.ru_maxrss / 1024,
            out=stream.read().decode("utf-8", "replace"),
        )


def _end_group(group: int) -> None:
    """Processes that outlived their parent (distilabel has some)."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


# ---------------------------------------------------------------------------------------------------------------- ours

KEYS = {"GEMINI_API_KEY": "bench", "OPENAI_API_KEY": "bench"}


def prepare(world: World, backend: str, url: str, **annotate: Any) -> None:
    """A fresh run folder and the recipe of `backend` towards the service at `url`."""
    shutil.rmtree(world.folder / "runs", ignore_errors=True)
    write_recipe(world, backend, url, **annotate)


def write_recipe(world: World, backend: str, url: str, **annotate: Any) -> None:
    base = f"{url}/v1" if backend == "openai_chat" else url
    world.write_recipe(backend=backend, options={"base_url": base}, **annotate)


def annotate(world: World, *, limit: float, watch: Callable[[int], bool] | None = None) -> Ran:
    """`align annotate RECIPE`, as a user says it."""
    return align("annotate", world, limit=limit, watch=watch)


def align(verb: str, world: World, *, limit: float, watch: Callable[[int], bool] | None = None) -> Ran:
    command = [sys.executable, "-m", "align", verb, world.recipe, f"runs={world.folder / 'runs'}"]
    return run(command, {**environment(), **KEYS}, limit, watch)


def environment() -> dict[str, str]:
    """A user's: modules are compiled once, not at every start."""
    return {name: value for name, value in small_run.environment("").items() if name != "PYTHONDONTWRITEBYTECODE"}


# --------------------------------------------------------------------------------------------------------------- peers


def peer_python(name: str, peers: Path | None) -> Path | None:
    """The interpreter of a peer's environment, None where it is not installed."""
    folder, _ = PEERS[name]
    if not folder:
        return Path(sys.executable)
    python = peers / folder / "bin" / "python" if peers else None
    return python if python and python.exists() else None


def peer(name: str, python: Path, rows: Path, out: Path, url: str, rpm: float, limit: float) -> tuple[Ran, str]:
    """One run of a peer's driver; what ran, and the version it gave."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "HOME": home,
            "HF_HUB_OFFLINE": "1",
            "OPENAI_API_KEY": "none",
            # curator: no reports home, and the token table that litellm brings along instead of a download.
            "TELEMETRY_ENABLED": "0",
            **_token_table(python),
        }
        driver = HERE.parent / "annotate_peers" / PEERS[name][1]
        done = run([python, driver, rows, out, f"{url}/v1", str(rpm)], environment, limit)
    for line in reversed(done.out.splitlines()):
        if line.startswith('{"version"'):
            return done, str(json.loads(line)["version"])
    return done, ""


def _token_table(python: Path) -> dict[str, str]:
    found = list(python.parent.parent.glob("lib/python*/site-packages/litellm/litellm_core_utils/tokenizers"))
    return {"TIKTOKEN_CACHE_DIR": str(found[0])} if found else {}
