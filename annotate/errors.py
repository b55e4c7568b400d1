"""The three ways a run ends early, each with the exit code the command line gives it.

    MmalignError
    ├── UserError   exit 2   the user's input is wrong; every fault listed, remedy named, nothing written
    ├── Stopped     exit 3   a limit or threshold was reached; state is kept; says when to come back
    └── (any other exception is our fault: exit 1, with a traceback)

A record that cannot be produced is none of these: it is a `Failure` (see `records.py`) and the run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence


class MmalignError(Exception):
    """Root of the errors we raise on purpose; the message is written for the reader at the keyboard."""

    exit_code = 1


class UserError(MmalignError, ValueError):
    """The input is wrong. `faults` lists everything found; the message shows the first 20."""

    exit_code = 2
    shown = 20

    def __init__(self, *faults: str) -> None:
        self.faults: Sequence[str] = faults
        lines = list(faults[: self.shown])
        if len(faults) > self.shown:
            lines.append(f"... and {len(faults) - self.shown} more")
        super().__init__("\n".join(lines))


class RecordError(UserError):
    """One line of a file does not hold the record it should; says which field and why."""


class Stopped(MmalignError):
    """A quota, budget or threshold ended the run; everything done so far is kept."""

    exit_code = 3
