"""The photographs of `data/prepare_photos.py`, made once for all tests that ask: a fresh clone has none."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    "astronaut", "camera", "chelsea", "china", "coffee", "coins", "flower", "horse", "hubble_deep_field", "moon",
    "motorcycle_left", "rocket",
)  # fmt: skip


@cache
def photographs() -> Path:
    """The folder that they lie in, as <name>.jpg."""
    out = Path(tempfile.mkdtemp(prefix="photographs-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    script = str(ROOT / "data" / "prepare_photos.py")
    subprocess.run([sys.executable, script, "--out", str(out)], check=True, capture_output=True)
    return out / "images"
