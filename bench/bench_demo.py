"""What the demo costs: seconds per stage and peak memory of the whole road.  python bench/bench_demo.py [RECIPE]

Runs the recipe from nothing in a temporary folder, as `make demo` does, and reads the seconds from the manifests.
Correctness in the same run: every manifest is verified afterwards.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    recipe = sys.argv[1] if len(sys.argv) > 1 else "recipes/demo.yaml"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "align", "run", recipe, f"runs={folder}", "-q"], check=True)
        whole = time.perf_counter() - started
        (run,) = (path for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
        subprocess.run([sys.executable, "-m", "align", "verify", str(run)], check=True, stdout=subprocess.DEVNULL)
        manifests = [json.loads(p.read_text()) for p in run.glob("*/manifest.json")]
    for manifest in sorted(manifests, key=lambda m: -m["seconds"]):
        print(f"{manifest['stage']:12} {manifest['seconds']:7.1f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{'whole road':12} {whole:7.1f} s   peak memory of one process {peak:.2f} GiB")


if __name__ == "__main__":
    main()
