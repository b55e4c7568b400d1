"""The stage `annotate` with its card: calibration.json and calibration.html beside the annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from annotate.records import Annotated, Failure
from annotate.run import AnnotateWork
from annotate.stage import Compiled, Line


class CalibratedWork(AnnotateWork):
    """`AnnotateWork` that also says how far its annotator can be trusted."""

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        from align.calibration import calibration_card, card_text
        from align.report.calibration import card_page

        compiled = super().compile(lines, workspace)
        own = [lines[unit.key] for unit in self.units if unit.payload.check is None]
        card = calibration_card(
            cast(Sequence[Annotated], compiled.files["annotated.jsonl"]),
            cast(Sequence[Failure], compiled.files["failures.jsonl"]),
            cast(Sequence[Mapping[str, Any]], compiled.files.get("checks.jsonl", ())),
            funnel=compiled.funnel,
            cost_usd=None if any(line["cost_usd"] is None for line in own) else sum(line["cost_usd"] for line in own),
            calls=sum(
                len(line["replies"]) for line in own
            ),  # how often a service stumbled is no property of a data set
            rubric=self.rubric,
            seed=self.seed,
        )
        files = {**compiled.files, "calibration.json": card, "calibration.html": card_page(card)}
        return replace(compiled, files=files, told=card_text(card))
