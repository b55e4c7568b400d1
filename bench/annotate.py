"""How close to the best possible time we annotate at a rate limit, and what is lost.  python bench/annotate.py

    python bench/annotate.py                              all regimes, our backends, 3 repeats (about 25 minutes)
    python bench/annotate.py --quick                      one short regime (20 s a backend), nothing written
    python bench/annotate.py --only 6000-clean --backend gemini --repeats 1
    python bench/annotate.py --peers DIR --peers-only     the peers, each in a virtual environment of its own below DIR

Ours is run as a user runs it, `align annotate RECIPE` in a process of its own, against a loopback service in another.
Results go to bench/results/annotate.{md,json}, after each regime. Exit 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# This file's folder, which Python puts first, would hide the package `annotate` behind this file.
sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "tests"))

from loopback import Service, serve  # noqa: E402

from align.workspace import commit  # noqa: E402
from bench.annotate_rig import client, stories  # noqa: E402
from bench.annotate_rig.measure import Asked, delivered_by_peer, delivered_by_us, figures  # noqa: E402
from bench.annotate_rig.regimes import QUICK, REGIMES, Regime  # noqa: E402
from bench.annotate_rig.results import Results, meets  # noqa: E402
from bench.annotate_rig.world import make_world  # noqa: E402

BACKENDS = ("gemini", "openai_chat", "gemini_legacy")
LIGHT = 1200
"""Up to so many requests a minute our backends run side by side, each with a service of its own: less than a core."""
LEGACY = ("1200-clean", "1200-faults")
"""Regimes in which `gemini_legacy` runs, once each: it has no target."""


def main() -> int:
    options = _options()
    told = Results()
    if options.merge:
        for file in options.merge:
            told.merge(file)
        told.write()
        return 0
    missed: list[str] = []
    began = time.monotonic()
    for regime in [QUICK] if options.quick else REGIMES:
        if options.only and regime.name not in options.only:
            continue
        for group in [*_ours(regime, options), *_peers(regime, options)]:
            told.add_runs(group)
            if group[0]["ours"] and not ("ratio" in group[0] and meets(regime, group)):
                missed.append(f"{regime.name} {group[0]['client']}")
        if not options.quick:
            told.write()
    for name in stories.STORIES if not (options.quick or options.peers_only) else ():
        if options.only and name not in options.only:
            continue
        for backend in options.backend or BACKENDS[: 1 if name in stories.LONG else 2]:
            entry = {"story": name, "backend": backend, **_birth(), **stories.tell(name, backend)}
            _say(options, entry, f"{name:14} {backend:14} {'ok' if entry['ok'] else 'MISSED'}  {_short(entry)}")
            told.add_story(entry)
            missed += [] if entry["ok"] else [f"{name} {backend}"]
            told.write()
    minutes = (time.monotonic() - began) / 60
    _say(options, {"missed": missed}, f"{minutes:.1f} minutes; missed: {', '.join(missed) or 'nothing'}")
    return 1 if missed else 0


def _ours(regime: Regime, options: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """All repeats of our backends: one after the other, or side by side where all together are little work."""
    wanted = [] if options.peers_only else list(options.backend or BACKENDS[:2])
    if not (options.backend or options.peers_only) and regime.name in LEGACY:
        wanted.append("gemini_legacy")
    with ThreadPoolExecutor(len(BACKENDS) if regime.requests_per_minute <= LIGHT else 1) as pool:
        return list(pool.map(lambda backend: _repeats(regime, backend, options), wanted))


def _repeats(regime: Regime, backend: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    config = regime.service(openai=backend == "openai_chat")
    entries = []
    with tempfile.TemporaryDirectory() as folder, serve(config) as service:
        asked = Asked(make_world(Path(folder), regime.n))
        best = regime.oracle(asked.contents).span
        for repeat in range(1 if backend == "gemini_legacy" or options.quick else options.repeats):
            client.prepare(asked.world, backend, service.url, requests_per_minute=regime.declared)
            entry = {"regime": regime.name, "client": backend, "ours": True, "repeat": repeat, **_birth()}
            zero = time.monotonic()
            service.reset(config)
            ran = client.annotate(asked.world, limit=5 * best + 60)
            stats = service.stats()
            entry |= _ran(ran, stats) | {"note": _note(ran)}
            if stats["arrivals"]:
                entry |= figures(asked, stats, delivered_by_us(asked), best)
                entry["seconds_to_first_request"] = round(zero + stats["arrivals"][0]["at"] - ran.started, 3)
            entries.append(entry)
            _say(options, entry, f"{regime.name:14} {backend:14} {_short(entry)}")
    return entries


def _peers(regime: Regime, options: argparse.Namespace) -> list[list[dict[str, Any]]]:
    if not regime.peers or options.peers is None:
        return []
    with tempfile.TemporaryDirectory() as folder, serve(regime.service(openai=True)) as service:
        asked = Asked(make_world(Path(folder), regime.n))
        asked.write_rows(Path(folder) / "rows.jsonl")
        return [
            [_peer(regime, name, asked, service, options)]
            for name in client.PEERS
            if not options.peer or name in options.peer
        ]


def _peer(regime: Regime, name: str, asked: Asked, service: Service, options: argparse.Namespace) -> dict[str, Any]:
    entry: dict[str, Any] = {"regime": regime.name, "client": name, "ours": False, "repeat": 0, **_birth()}
    python = client.peer_python(name, options.peers)
    if python is None:
        return entry | {"note": "not installed"}
    rows, out = asked.world.folder / "rows.jsonl", asked.world.folder / "out.jsonl"
    out.unlink(missing_ok=True)
    service.reset()
    best = regime.oracle(asked.contents).span
    ran, version = client.peer(name, python, rows, out, service.url, regime.requests_per_minute, 10 * best + 60)
    stats = service.stats()
    entry |= _ran(ran, stats) | {"version": version, "note": _note(ran)}
    if stats["admitted"]:
        entry |= figures(asked, stats, delivered_by_peer(asked, out), best)
    elif refused := [a for a in stats["arrivals"] if a["kind"] == "refused"]:
        entry["note"] = f"all calls refused: {refused[-1]['detail']}"
    _say(options, entry, f"{regime.name:14} {name:20} {_short(entry)}")
    return entry


def _ran(ran: client.Ran, stats: dict[str, Any]) -> dict[str, Any]:
    return {
        "seconds": round(ran.seconds, 2),
        "cpu_seconds": round(ran.cpu_seconds, 2),
        "peak_mib": round(ran.peak_mib, 1),
        "kinds": stats["kinds"],
    }


def _note(ran: client.Ran) -> str:
    """What went wrong with the process, empty where nothing did."""
    if ran.code == 0:
        return ""
    if ran.code is None:
        return f"cut off after {ran.seconds:.0f} s"
    last = ran.out.strip().splitlines()[-1:] or [""]
    return f"exit {ran.code}: {last[0][:160]}"


def _birth() -> dict[str, Any]:
    """Where a number comes from."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"commit": commit(), "at": now, "load": round(os.getloadavg()[0], 2)}


def _short(entry: dict[str, Any]) -> str:
    shown = (
        "ratio", "delivered", "wrong_scores", "paid_lost", "duplicates", "rejected", "rejected_share", "refused",
        "not_as_planned", "first_second", "most_in_flight", "seconds", "peak_mib", "load", "note",
    )  # fmt: skip
    if "story" in entry:
        shown = tuple(k for k in entry if k not in ("story", "backend", "commit", "at", "ok"))
    return "  ".join(f"{key} {entry[key]}" for key in shown if entry.get(key) not in (None, ""))


def _say(options: argparse.Namespace, entry: dict[str, Any], text: str) -> None:
    print(json.dumps(entry, ensure_ascii=False) if options.json else text, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [regime.name for regime in REGIMES] + list(stories.STORIES)
    parser.add_argument("--quick", action="store_true", help="one short regime, once; nothing is written")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, help="of ours")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="folder that holds inspect-ai/, bespokelabs-curator/, distilabel/")
    parser.add_argument("--peer", nargs="+", choices=list(client.PEERS), help="only these peers")
    parser.add_argument("--peers-only", action="store_true", help="leave ours out")
    parser.add_argument("--merge", nargs="+", type=Path, help="measure nothing, take in these annotate.json")
    parser.add_argument("--json", action="store_true", help="one JSON line a run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
