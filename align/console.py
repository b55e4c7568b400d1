"""What a run tells: lines for people, or one JSON event a line for machines (`--json`).

    {"event":"stage","stage":"sample","state":"done","units":600,"outputs":600,"failures":0,"seconds":41.2}

On a terminal a bar shows how far a stage is; elsewhere a plain line every ten seconds.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

EVERY_SECONDS = 10.0


class Console:
    """Standard output for what was asked for, standard error for bars."""

    def __init__(self, *, machine: bool = False, quiet: bool = False, command: str = "") -> None:
        """`command`: what was typed, to be told where it is to be typed again."""
        self.machine, self.quiet, self.command = machine, quiet, command

    def tell(self, event: str, text: str, **data: Any) -> None:
        """One event: `text` for people, `data` for machines."""
        if self.machine:
            print(json.dumps({"event": event, **data}, ensure_ascii=False), flush=True)
        elif text and not self.quiet:
            print(text, flush=True)

    def result(self, text: str, **data: Any) -> None:
        """What the verb was asked for: told also when quiet."""
        if self.machine:
            print(json.dumps({"event": "result", **data}, ensure_ascii=False), flush=True)
        else:
            print(text, flush=True)

    def bar(self, stage: str, total: int, done: int) -> Bar:
        return Bar(self, stage, total, done)


class Bar:
    """How far one stage is."""

    def __init__(self, console: Console, stage: str, total: int, done: int) -> None:
        self.console, self.stage, self.total, self.done, self.note = console, stage, total, done, ""
        self._told = time.monotonic()
        self._tqdm: Any = None
        if not console.machine and not console.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._tqdm = tqdm(total=total, initial=done, desc=stage, dynamic_ncols=True, leave=False)

    def set(self, done: int, total: int, note: str = "") -> None:
        self.done, self.total, self.note = done, total, note
        if self._tqdm is not None:
            self._tqdm.total = total
            self._tqdm.set_postfix_str(note, refresh=False)
            self._tqdm.update(done - self._tqdm.n)
        elif done < total and time.monotonic() - self._told >= EVERY_SECONDS:
            self._told = time.monotonic()
            text = f"{self.stage}: {done} of {total}{f', {note}' if note else ''}"
            self.console.tell("progress", text, stage=self.stage, done=done, total=total, note=note)

    def close(self) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
