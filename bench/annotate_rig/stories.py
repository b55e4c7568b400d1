"""What a table of ratios does not show: quotas, kills, re-runs, memory, start-up. Ours alone."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from loopback import Config, Service, serve

from bench.annotate_rig import client
from bench.annotate_rig.measure import Asked, delivered_by_us, right_scores
from bench.annotate_rig.regimes import FAULTS
from bench.annotate_rig.world import World, make_world

Story = Callable[[Path, str], dict[str, Any]]
"""(folder, backend) -> what happened; its `ok` says whether it is what was asked for."""

_SERVICE = Config(wires=("gemini", "openai"), requests_per_minute=1200, burst=20, latency=1.0)


def quota(folder: Path, backend: str) -> dict[str, Any]:
    """A daily quota of 80 for 200 rows: stops cleanly at 80, and on the next day asks for the other 120."""
    n, day = 200, 80
    world = make_world(folder, n)
    with serve(replace(_SERVICE, requests_per_day=day)) as service:
        client.prepare(world, backend, service.url, requests_per_minute=1200)
        stopped = client.annotate(world, limit=60)
        first = service.stats()
        kept = (world.run / "annotate" / "journal.jsonl").read_bytes().count(b"\n")
        service.reset(_SERVICE)  # a new day
        resumed = client.annotate(world, limit=60)
        second = service.stats()
    right, delivered = _right(world)
    return {
        "rows": n,
        "quota": day,
        "exit_code": stopped.code,
        "answers_kept": kept,
        "refused_by_quota": first["rejected"],
        "said": stopped.out.strip().splitlines()[-1],
        "exit_code_next_day": resumed.code,
        "calls_next_day": second["admitted"],
        "delivered": delivered,
        "ok": (stopped.code, kept, resumed.code, second["admitted"], right) == (3, day, 0, n - day, n),
    }


def kill(folder: Path, backend: str) -> dict[str, Any]:
    """SIGKILL when half is answered, under faults; the run again, again, and with 10% more rows."""
    n = 400
    world = make_world(folder, n)
    with serve(replace(_SERVICE, faults=FAULTS)) as service:
        began = time.monotonic()
        client.prepare(world, backend, service.url, requests_per_minute=1200)
        client.annotate(world, limit=90, watch=_half_answered(service, n))
        at = time.monotonic() - began
        stats = service.stats()
        in_flight = sum(a["at"] <= at < a["at"] + a["seconds"] for a in stats["arrivals"] if "attempt" in a)
        time.sleep(max([0.0, *(a["at"] + a["seconds"] - at for a in stats["arrivals"] if "attempt" in a)]))
        again = client.annotate(world, limit=90)
        whole = service.stats()
        right, delivered = _right(world)
        rerun = client.annotate(world, limit=30)
        calls_on_rerun = len(service.stats()["arrivals"]) - len(whole["arrivals"])
        answers = sum(service.stats()["paid"].values())
        more = make_world(folder, n + n // 10)
        client.write_recipe(more, backend, service.url, requests_per_minute=1200)
        added = client.annotate(more, limit=60)
        calls_for_more = sum(service.stats()["paid"].values()) - answers
    right_more, _ = _right(more)
    repaid = answers - n
    return {
        "rows": n,
        "killed_after": sum(stats["paid"].values()),
        "in_flight": in_flight,
        "repaid": repaid,
        "delivered": delivered,
        "calls_on_rerun": calls_on_rerun,
        "rows_added": n // 10,
        "answers_for_added": calls_for_more,
        "exit_codes": [again.code, rerun.code, added.code],
        "ok": 0 <= repaid <= in_flight
        and (right, calls_on_rerun, calls_for_more, right_more) == (n, 0, n // 10, n + n // 10),
    }


def memory(folder: Path, backend: str) -> dict[str, Any]:
    """Peak memory with 200 kB images: ten times the rows must not be ten times the memory."""
    peaks, seconds, rights = {}, {}, []
    for n in (1000, 10_000):
        world = make_world(folder / str(n), n, image_bytes=200_000)
        with serve(replace(_SERVICE, requests_per_minute=6000, burst=100)) as service:
            client.prepare(world, backend, service.url, requests_per_minute=6000)
            ran = client.annotate(world, limit=600)
        peaks[n], seconds[n] = round(ran.peak_mib, 1), round(ran.seconds, 1)
        rights.append(_right(world)[0] == n)
        shutil.rmtree(world.folder / "images")
    grown = (peaks[10_000] - peaks[1000]) * 2**20 / 9000
    return {
        "peak_mib": peaks,
        "seconds": seconds,
        "grown_bytes_a_row": round(grown),
        "image_bytes": 200_000,
        "ok": all(rights) and grown < 0.1 * 200_000,
    }


def startup(folder: Path, backend: str) -> dict[str, Any]:
    """Import and plan, as `align estimate RECIPE` does them: no client library is imported, no key is looked for."""
    world = make_world(folder, 10)
    client.prepare(world, backend, "http://127.0.0.1:9", requests_per_minute=1200)
    arguments = ["estimate", str(world.recipe), f"runs={world.folder / 'runs'}"]
    check = (
        "import sys; from align.cli import main; code = main(sys.argv[1:]); "
        "print('loaded:', *(m for m in ('google.genai', 'google.generativeai', 'openai', 'aiohttp', 'torch') "
        "if m in sys.modules)); sys.exit(code)"
    )
    environment = client.environment()
    out = subprocess.run([sys.executable, "-c", check, *arguments], env=environment, capture_output=True, text=True)
    loaded = out.stdout.rpartition("loaded:")[2].split()
    plan = [sys.executable, "-m", "align", *arguments]
    runs = [client.run(plan, environment, 30) for _ in range(9)]
    bare = [client.run([sys.executable, "-c", "pass"], environment, 30) for _ in range(9)]
    cpu = statistics.median(ran.cpu_seconds for ran in runs)
    return {
        "exit_code": out.returncode,
        "cpu_seconds": round(cpu, 3),
        "cpu_seconds_range": [round(min(r.cpu_seconds for r in runs), 3), round(max(r.cpu_seconds for r in runs), 3)],
        "seconds": round(statistics.median(ran.seconds for ran in runs), 3),
        "bare_interpreter": round(statistics.median(ran.cpu_seconds for ran in bare), 3),
        "libraries_loaded": loaded,
        # It computes and waits for nothing, so on a machine of its own these are its seconds.
        "ok": out.returncode == 0 and not loaded and cpu < 0.3,
    }


STORIES: dict[str, Story] = {"quota": quota, "kill": kill, "memory": memory, "startup": startup}
LONG = ("memory",)
"""Told of one backend only, unless more are asked for."""


def tell(story: str, backend: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return STORIES[story](Path(folder), backend)


def _half_answered(service: Service, n: int) -> Callable[[int], bool]:
    looked = 0.0

    def watch(pid: int) -> bool:
        nonlocal looked
        if time.monotonic() - looked < 0.25:
            return False
        looked = time.monotonic()
        return sum(service.stats()["paid"].values()) >= n // 2

    return watch


def _right(world: World) -> tuple[int, int]:
    """Rows delivered with the right scores, and rows delivered."""
    asked = Asked(world)
    of = dict(zip(asked.contents, asked.requests, strict=True))
    delivered = delivered_by_us(asked)
    right = sum(right_scores(of[c].prompt, of[c].completions) == scores for c, scores in delivered.items())
    return right, len(delivered)


if __name__ == "__main__":  # python -m bench.annotate_rig.stories kill gemini
    print(json.dumps(tell(*sys.argv[1:3]), indent=1))
