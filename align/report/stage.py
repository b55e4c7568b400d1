"""Stage `report`: the verdict table and one page about a run, from its recorded outputs alone.

Out: `table.txt` (what the terminal shows), `report.json`, `report.html` (self-contained: no request leaves the page).
Sections whose stage the recipe lacks are left out. Run it with `align report RECIPE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from align.context import Context
from align.report.gather import Findings, gather
from align.report.page import funnel_steps, render_page, report_json
from align.report.table import build_table
from align.report.terminal import render_account, render_text
from align.settings import Report
from annotate.records import sha256_of
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit


def work(context: Context) -> ReportWork:
    return ReportWork(gather(context), context.recipe.report or Report())


class ReportWork:
    """One unit that takes seconds: everything happens when the files are compiled."""

    def __init__(self, findings: Findings, settings: Report) -> None:
        self.findings, self.settings = findings, settings
        self.table = build_table(findings.verdicts, findings.metrics) if findings.verdicts else None

    @cached_property
    def units(self) -> Sequence[Unit]:
        return (Unit(key=sha256_of([report_json(self.findings, self.table), self.settings.cards]), payload=None),)

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        for unit in pending:
            done(unit.key, {})

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        findings, table = self.findings, self.table
        head = (findings.title, findings.base)
        account = {step.label: step.count for step in funnel_steps(findings.funnel.get("total", {}))}
        shown = (
            render_text(*head, findings.verdicts, table, findings.contamination)
            if table
            else render_account(*head, account, findings.failures)
        )
        return Compiled(
            files={
                "report.html": render_page(findings, table, cards=self.settings.cards),
                "report.json": report_json(findings, table),
                "table.txt": shown,
            },
            units=1,
            outputs=1,
            failures=0,
        )

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        return Estimate()
