"""An environment for each tool that loads our files, made once and kept in a cache folder.

It stands on the packages of the environment that runs the tests (torch above all is not installed twice); what the
tool wants in another version lies above them. `MMALIGN_TOOL_ENVIRONMENTS` names another folder than
~/.cache/mmalign/tools.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """What is installed: `alone` without its requirements, which name far more than loading data takes."""

    name: str
    alone: tuple[str, ...]
    needs: tuple[str, ...]


LLAMA_FACTORY = Tool(
    name="llama-factory",
    # torchaudio is imported by the loader of every kind of data, and never used for images
    alone=("llamafactory==0.9.5", "torchaudio==2.11.0"),
    needs=(
        "transformers==5.6.0",
        "trl==0.24.0",
        "peft==0.18.1",
        "accelerate==1.11.0",
        "datasets==4.0.0",
        "omegaconf",
        "einops",
        "sentencepiece",
        "tiktoken",
        "modelscope",
        "av<=16",
        "fire",
        "torchdata==0.11.0",
    ),
)
MS_SWIFT = Tool(
    name="ms-swift",
    alone=("ms-swift==4.6.0",),
    needs=(
        "transformers==5.19.0",
        "trl==0.29.1",
        "peft==0.20.0",
        "datasets==4.8.4",
        "modelscope",
        "json-repair",
        "addict",
        "attrdict",
        "binpacking",
        "dacite",
        "einops",
        "importlib-metadata",
        "nltk",
        "oss2",
        "rouge",
        "simplejson",
        "zstandard",
        "fastapi",
        "uvicorn",
        "transformers-stream-generator",
        "tiktoken",
        "sentencepiece",
        "cpm-kernels",
        "pandas",
        "tensorboard",
    ),
)


class Unavailable(Exception):
    """The environment cannot be made here; the words say why."""


def python_of(tool: Tool) -> Path:
    """The interpreter of the tool's environment, made first where there is none. Raises `Unavailable`."""
    default = Path.home() / ".cache/mmalign/tools"
    key = hashlib.sha256(repr((tool, sys.version_info[:2], sys.prefix)).encode()).hexdigest()[:8]
    folder = Path(os.environ.get("MMALIGN_TOOL_ENVIRONMENTS", default)) / f"{tool.name}-{key}"
    python, ready = folder / "bin/python", folder / "ready"
    if ready.exists():
        return python
    _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)])
    below = sysconfig.get_paths()["purelib"]
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "below.pth").write_text(f"{below}\n")
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *tool.alone])
    _run([str(python), "-m", "pip", "install", "--quiet", *tool.needs])
    for compiled in site.glob("torchaudio/lib/*.so"):
        compiled.unlink()  # built for CUDA: without them the package is imported, with them it cannot be
    ready.touch()
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Unavailable(f"{' '.join(command[:5])} ...: {last[-1] if last else 'failed without a word'}")
