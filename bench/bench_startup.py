"""How long the light parts take to start, beside a bare interpreter:  python bench/bench_startup.py

Wall seconds of whole processes, median of 9. Correctness in the same run: torch must not have been imported.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 9
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import annotate, align.pairs": [sys.executable, "-c", "import annotate, align.pairs"],
    "align --help": [sys.executable, "-m", "align", "--help"],
}
CHECK = (
    "import sys, annotate, align.pairs, align.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
)


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    subprocess.run([sys.executable, "-c", CHECK], check=True)
    times = {name: [seconds(command) for _ in range(RUNS)] for name, command in COMMANDS.items()}
    bare = statistics.median(times["python -c pass"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:32} {median:.3f} s   over a bare interpreter {median - bare:+.3f} s")


if __name__ == "__main__":
    main()
