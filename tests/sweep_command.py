"""`align sweep` as a process of its own: `python tests/sweep_command.py RECIPE [key=value ...] [--list] [--yes]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from small_run import environment

from align.commands import sweep
from align.console import Console
from annotate.errors import MmalignError


def main(arguments: list[str]) -> int:
    """As the command line calls it."""
    parser = argparse.ArgumentParser()
    sweep.arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    try:
        return sweep.run(options, Console())
    except MmalignError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """In a process group of its own, to be killed."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env=environment(os.path.dirname(__file__)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
