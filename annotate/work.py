"""What the stages `annotate` and `teach` have in common: an annotator by its lanes, calls as units, prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from annotate.asked import tokens_of
from annotate.asking import AskSettings, Call, ReadImage, ask_all
from annotate.lanes import LaneSettings, check_lanes, make_lanes
from annotate.limits import Patience
from annotate.protocol import Annotator, Priced
from annotate.records import Reason
from annotate.stage import Done, Estimate, Line, Progress, Unit


class WorkSettings(AskSettings, LaneSettings, Protocol):
    """What both blocks of the recipe say."""

    @property
    def temperature(self) -> float: ...
    @property
    def prices(self) -> str: ...


class AskingWork:
    """Units whose payloads are calls; the subclass plans them in its constructor and compiles their lines."""

    units: Sequence[Unit]

    def __init__(
        self,
        settings: WorkSettings,
        read_image: ReadImage,
        annotator: Annotator | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`annotator` is made from the settings where it is not given. Raises `UserError` where that fails."""
        self.read_image = read_image
        self.patience = patience or Patience(attempts=settings.attempts)
        self.lanes = make_lanes(settings, annotator)
        self.annotator = self.lanes[0].annotator
        self._asks = settings
        self.paid = self.annotator.paid

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        """Ask what is pending; one line each. Raises `Stopped` or `UserError` with what was answered kept."""
        check_lanes(self.lanes)
        ask_all(
            self.lanes,
            {unit.key: unit.payload for unit in pending},
            settings=self._asks,
            cost_of=self.cost_of,
            read_image=self.read_image,
            done=done,
            workspace=workspace,
            progress=progress,
            patience=self.patience,
        )

    def cost_of(self, annotator: Annotator, usage: Mapping[str, int]) -> float | None:
        """Dollars for one reply: the backend's own price, or that of the table; None where there is none."""
        if not annotator.paid:
            return 0.0
        if isinstance(annotator, Priced):
            return annotator.cost_usd(usage)
        return None

    def failed(self, unit: Unit, line: Line) -> bool:
        """Whether nothing of use came of a unit, read with the parser of today."""
        call: Call = unit.payload
        cut_off = line["reason"] == Reason.CUT_OFF.value
        return line["outcome"] != "ok" and not any(call.readable(r["text"], cut_off) for r in line["replies"])

    def estimate_of(self, pending: Sequence[Unit], guess: int, lines: Mapping[str, Line]) -> Estimate:
        calls: list[Call] = [unit.payload for unit in pending]
        tokens = sum(tokens_of(call.request()) for call in calls)
        usage = {"input_tokens": tokens, "output_tokens": guess}
        pace = self._asks.requests_per_minute
        return Estimate(
            calls=len(calls),
            cached=len(self.units) - len(pending),
            input_tokens=tokens,
            output_tokens=guess,
            usd=self.cost_of(self.annotator, usage),
            minutes=len(calls) / pace if pace else 0.0,
            paid=self.annotator.paid,
        )
