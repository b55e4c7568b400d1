"""Runs code that makes a Ray dataset called `rows`, in a process of its own: once loaded, Ray stays in a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
import ray
code, out = sys.stdin.read(), sys.argv[1]
ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
names = {}
exec(code, names)
taken = names["rows"].take_all()
ray.shutdown()
with open(out, "w") as file:
    json.dump(taken, file)
"""


def rows_of(code: str, folder: Path) -> list[dict[str, str]]:
    """What `rows` holds after `code` ran in `folder`."""
    out = folder / "rows.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out)],
        input=code,
        cwd=folder,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())
