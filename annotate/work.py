"""What the stages `annotate` and `teach` have in common: an annotator by its lanes, calls as units, prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from annotate.calls import AskSettings, Call, ReadImage
from annotate.estimate import estimate_calls
from annotate.lanes import LaneSettings, check_lanes, make_lanes
from annotate.limits import Patience
from annotate.prices import Prices
from annotate.protocol import Annotator, Priced, traits_of
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

    @cached_property
    def prices(self) -> Prices:
        return Prices.load(self._asks.prices)

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        """Ask what is pending; one line each. Raises `Stopped` or `UserError` with what was answered kept."""
        from annotate.asking import ask_all  # asyncio and what belongs to it: not for those who only plan or estimate

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
        return self.prices.cost_usd(annotator.model, usage, batch=traits_of(annotator).batch)

    def failed(self, unit: Unit, line: Line) -> bool:
        """Whether nothing of use came of a unit, read with the parser of today."""
        call: Call = unit.payload
        return line["outcome"] != "ok" and not any(call.readable(r["text"], r["cut_off"]) for r in line["replies"])

    def written(self, pending: Sequence[Unit]) -> int:
        """A guess at the output tokens of one reply."""
        raise NotImplementedError

    def estimate(self, pending: Sequence[Unit], lines: Mapping[str, Line] | None = None) -> Estimate:
        """What `pending` will take; `lines` of earlier replies make the guess a better one."""

        def cost_of(usage: Mapping[str, int], batch: bool) -> float | None:
            if isinstance(self.annotator, Priced):
                return self.annotator.cost_usd(usage) if batch == traits_of(self.annotator).batch else None
            return self.prices.cost_usd(self.annotator.model, usage, batch=batch)

        price = self.prices.of(self.annotator.model)
        own = not self.paid or isinstance(self.annotator, Priced)
        return estimate_calls(
            [unit.payload.request() for unit in pending],
            written=min(self._asks.max_output_tokens, self.written(pending)),
            lines={u.key: lines[u.key] for u in self.units if u.key in lines} if lines else {},
            lanes=self.lanes,
            cost_of=cost_of,
            cached=len(self.units) - len(pending),
            prices_as_of="" if own else price.as_of if price else self.prices.as_of,
        )
