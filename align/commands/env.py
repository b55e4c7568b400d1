"""`align env`: what is installed, what is missing and how to get it, what the machine offers."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from align.base import SHIPPED
from align.console import Console
from annotate.backends.registry import installed

_ORDER = (
    *("train", "text", "report", "demo", "diversity", "formats"),
    *("gemini", "openai", "gemini-legacy", "qlora", "ray", "vllm"),
)
_APART = ("vllm",)
"""Extras that do not go together with the pinned set."""


def check(options: argparse.Namespace, console: Console) -> int:
    """Print the installation; exit 2 when something the base install needs is missing or of the wrong version."""
    packages = wanted_packages()
    lines = [
        f"python {platform.python_version()} ({sys.executable})",
        f"mmalign {_version('mmalign') or 'not installed'}",
    ]
    base_ok = bool(packages)
    for extra in ("", *_ORDER):
        rows = [row for row in packages if row["extra"] == extra]
        bad = [row for row in rows if row["fault"]]
        base_ok = base_ok and not (bad and not extra)
        found = ", ".join(f"{row['name']} {row['version']}" for row in rows if not row["fault"])
        if extra and packages and not rows:  # an editable installation keeps the list of extras it was made with
            lines.append(f"{extra:14} unknown  to the installation: {_install(extra)}")
            continue
        lines.append(f"{extra or 'base':14} {'missing' if bad else 'ok':8} {found}")
        lines += [f"{'':14} {row['name']}: {row['fault']}" for row in bad]
        if bad:
            lines.append(f"{'':14} {_install(extra)}")
    if not packages:
        lines.append("mmalign is not installed here: pip install -c constraints.txt -e '.[train,report]'")
    machine = _machine()
    annotators = installed()
    lines += [f"{name:14} {value}" for name, value in machine.items()]
    lines.append(f"{'annotators':14} {', '.join(annotators) or 'none'}")
    console.result("\n".join(lines), packages=packages, machine=machine, annotators=annotators, ok=base_ok)
    return 0 if base_ok else 2


def _install(extra: str) -> str:
    if extra in _APART:
        return f"in an environment of its own: pip install -e '.[train,{extra}]'"
    target = f"-e '.[{extra}]'" if extra else "-e ."
    return f"pip install -c constraints.txt {target}"


def wanted_packages() -> list[dict[str, Any]]:
    """What our own metadata asks for, and what is there."""
    try:
        wanted = requires("mmalign") or []
    except PackageNotFoundError:
        return []
    rows = []
    for line in wanted:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?([^;]*)(?:;.*extra == ['\"]([^'\"]+)['\"])?", line)
        assert match, line
        name, bounds, extra = match[1], match[2].strip(), match[3] or ""
        if extra and extra not in _ORDER:
            continue
        found = _version(name)
        fault = (
            "" if found and fits(found, bounds) else f"{f'{found} is installed' if found else 'missing'}, need {bounds}"
        )
        rows.append({"name": name, "extra": extra, "version": found, "needs": bounds, "fault": fault})
    return rows


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def fits(found: str, bounds: str) -> bool:
    """Whether a version lies within bounds like `>=1.16,<1.17`; the forms our own metadata uses."""
    have = _numbers(found)
    for bound in filter(None, bounds.replace(" ", "").split(",")):
        match = re.match(r"(>=|<|==)(.+)", bound)
        assert match, bound
        limit = _numbers(match[2])
        if not {">=": have >= limit, "<": have < limit, "==": have == limit}[match[1]]:
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def _hub_is_off() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def _machine() -> dict[str, str]:
    disk = shutil.disk_usage(".")
    found = {
        "cpu cores": str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else str(os.cpu_count()),
        "disk free": f"{disk.free / 1e9:.1f} GB here",
        "hub": "offline: HF_HUB_OFFLINE is set"
        if _hub_is_off()
        else "HF_HUB_OFFLINE is not set; the hub was not asked",
        "demo base": f"shipped in {SHIPPED}"
        if (Path(SHIPPED) / "base.json").is_file()
        else "not shipped: make demo-base",
    }
    try:
        import torch
    except ModuleNotFoundError:
        return found
    found["torch threads"] = str(torch.get_num_threads())
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {**found, "cuda": cuda}
