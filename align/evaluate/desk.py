"""The judge's desk: one judge, opened once for all that is to be judged, with the annotator's limits and accounts.

In: units, each with the calls it is made of. Out, through `done(unit_key, {call_key: line})`, each unit as soon as its
last call is settled. Every line is kept in `judge/journal.jsonl` below the workspace under the hash of all that was
asked, the moment it is there: a killed run asks again only what was in flight, and what two units ask alike is asked
once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from align.settings import Judge
from annotate.calls import Call, ReadImage
from annotate.journal import Journal, read_journal
from annotate.stage import Estimate, Line, Progress, Unit
from annotate.work import AskingWork

Settled = Callable[[str, Mapping[str, Line]], None]


class Desk(AskingWork):
    """Asks the judge. Its calls are known only once there are answers; `units` are those of an estimate."""

    def __init__(self, judge: Judge, read_image: ReadImage) -> None:
        super().__init__(judge, read_image)
        self.units = []

    def settle(
        self,
        wanted: Mapping[str, Mapping[str, Call]],
        done: Settled,
        workspace: Path,
        progress: Progress,
        *,
        again: Collection[str] = (),
    ) -> None:
        """Settle all units of `wanted` (unit -> key of a call -> the call).

        A call that is settled is not asked again, however it ended, unless a unit in `again` asks it and it failed.
        """
        folder = _journal(workspace).parent
        folder.mkdir(parents=True, exist_ok=True)
        with Journal(_journal(workspace)) as journal:
            missing: dict[str, Call] = {}
            waiting: dict[str, set[str]] = {}
            for unit, calls in wanted.items():
                for key, call in calls.items():
                    line = journal.lines.get(key)
                    if line is None or (unit in again and line["outcome"] != "ok"):
                        missing[key] = call
            askers: dict[str, list[str]] = {}
            for unit, calls in wanted.items():
                waiting[unit] = {key for key in calls if key in missing}
                for key in waiting[unit]:
                    askers.setdefault(key, []).append(unit)
            for unit in [unit for unit, keys in waiting.items() if not keys]:
                done(unit, {key: journal.lines[key] for key in wanted[unit]})
            counting = threading.Lock()

            def kept(key: str, line: Line) -> None:  # any thread may call
                journal.append(key, line)
                with counting:
                    for unit in askers[key]:
                        waiting[unit].discard(key)
                    ready = [unit for unit in askers[key] if not waiting[unit]]
                for unit in ready:
                    done(unit, {key: journal.lines[key] for key in wanted[unit]})

            self.execute([Unit(key, call) for key, call in missing.items()], kept, folder, _of_replies(progress))

    def estimate_all(
        self, calls: Mapping[str, Call], settled: Collection[str], again: Collection[str], workspace: Path | None
    ) -> Estimate:
        """What is missing of `calls`: not `settled` by units that are done, nor in the journal below `workspace`.

        A call in `again` that failed is missing too.
        """
        lines = read_journal(_journal(workspace)) if workspace else {}
        kept = {key for key, line in lines.items() if key not in again or line["outcome"] == "ok"}
        self.units = [Unit(key, call) for key, call in calls.items()]
        missing = [unit for unit in self.units if unit.key not in settled and unit.key not in kept]
        return self.estimate(missing, lines)

    def written(self, pending: object) -> int:
        return 300


def _of_replies(progress: Progress) -> Progress:
    """Says besides how many replies there are: a unit is made of many."""

    def told(done: int, total: int, note: str = "") -> None:
        progress(done, total, f"judge: {done} of {total} replies{f', {note}' if note else ''}")

    return told


def _journal(workspace: Path) -> Path:
    return workspace / "judge" / "journal.jsonl"
