"""The page: one HTML file that asks nobody for anything. Everything the run recorded is untrusted text and is escaped.

Scripts and outside requests are forbidden to the page itself (Content-Security-Policy), so that even a mistake here
could not run what a model wrote. Figures are our own SVG; their labels are ours too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.report.calibration import card_html
from align.report.cards import make_cards
from align.report.contamination import overlap_html
from align.report.doctor import doctor_html
from align.report.figures import (
    compared_histograms,
    histogram,
    lengths,
    suite_bars,
    training_curve,
)
from align.report.gather import BUILT, Findings
from align.report.table import Table
from align.report.words import MODELS, SUITES, mde_text, p_text, sentence, short, signed, taxes, verdict_text

TEMPLATES = Path(__file__).parent / "templates"
WHAT = {
    "language": "language model from nothing",
    "connect": "vision tower and projector joined to it",
    "tune": "visual instruction tuning",
    "pretrain": "projector between language model and tower",
    "instruct": "visual instruction tuning",
    "sft": "SFT on the teacher's answers",
    "steerlm": "SteerLM",
    "rejection": "rejection sampling",
    "dpo": "DPO",
}
STEPS = {
    "prompts": "prompts",
    "annotated": "annotated",
    "rated": "with at least two scored completions",
    "margin": "with two completions far enough apart",
    "kept": "kept",
}


@dataclass(frozen=True)
class Step:
    """One bar of the funnel."""

    label: str
    count: int
    share: float


def render_page(findings: Findings, table: Table | None, *, cards: int) -> str:
    """The whole file. Needs jinja2 and matplotlib (extra `report`)."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["short"] = short
    environment.filters["signed"] = signed
    environment.filters["p_text"] = p_text
    environment.filters["mde_text"] = mde_text
    figures = {name: Markup(svg) for name, svg in _figures(findings, table)}
    return environment.get_template("page.html").render(
        findings=findings,
        sentence=sentence(findings.verdicts) if table else "",
        table=table,
        models=MODELS,
        suites=SUITES,
        taxes=taxes(findings.verdicts) if table else [],
        differences=_differences(findings.verdicts) if table else {},
        funnel=funnel_steps(findings.funnel.get("total", {})),
        sources={s: funnel_steps(c) for s, c in findings.funnel.get("sources", {}).items()},
        sets=findings.funnel.get("sets", {}),
        failures=findings.failures,
        facts=dict(_facts(findings)),
        figures=figures,
        trainings=[s for s in findings.logs if f"training-{s}" in figures],
        built=BUILT,
        what=WHAT,
        calibration=Markup(card_html(findings.calibration)) if findings.calibration else "",
        contamination=Markup(overlap_html(findings.contamination)),
        doctor=Markup(doctor_html(findings.doctor)) if findings.doctor else "",
        cards=make_cards(findings, cards),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    )


def _differences(verdicts: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Model -> suite -> the row of its comparison; the VLM's rows are its differences to the backbone."""
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in verdicts["regression"]:
        against = {"difference": row["vlm_minus_backbone"], "verdict": f"regression: {row['verdict']}"}
        rows.setdefault("vlm", {})[row["suite"]] = against
    for row in verdicts["comparisons"]:
        against = {"difference": row["minus_vlm"], "verdict": verdict_text(verdicts, row)}
        rows.setdefault(row["model"], {})[row["suite"]] = against
    return rows


def funnel_steps(counts: Mapping[str, int]) -> list[Step]:
    """Each step with its share of the first."""
    shown = [(label, counts[key]) for key, label in STEPS.items() if key in counts]
    first = shown[0][1] if shown else 0
    return [Step(label, count, count / first if first else 0.0) for label, count in shown]


def _figures(findings: Findings, table: Table | None) -> Iterator[tuple[str, str]]:
    if table and any(c.cells for c in table.columns):
        yield "suites", suite_bars(table)
        if any("n_words" in c.beside for c in table.columns):
            yield "lengths", lengths(table)
    totals = list(_totals(findings))
    if totals:
        yield "scores", histogram("scores", totals, label="points of a completion", colour="rejection")
    if findings.pairs:
        margins = [pair.margin for pair in findings.pairs if pair.margin is not None]
        label = "points between chosen and rejected"
        if margins:  # pairs of preferences have none
            yield "margins", histogram("margins", margins, label=label, mark=findings.min_margin)
        words = {
            "chosen": [len(p.chosen.text.split()) for p in findings.pairs],
            "rejected": [len(p.rejected.text.split()) for p in findings.pairs],
        }
        yield "words", compared_histograms("words", words, ("good", "bad"), label="words of a completion")
    for stage, rows in findings.logs.items():
        if any("loss" in row for row in rows):
            yield f"training-{stage}", training_curve(stage, [row for row in rows if "step" in row])


def _totals(findings: Findings) -> Iterator[float]:
    for row in findings.annotated:
        for scores in row.scores().values():
            if findings.score and set(findings.score) <= set(scores):
                yield sum(scores[name] for name in findings.score)


def _facts(findings: Findings) -> Iterator[tuple[str, str]]:
    """Small numbers worth knowing of the data, in words."""
    if findings.annotated:
        annotations = [a for row in findings.annotated for a in row.annotations]
        who = Counter(f"{a.backend} {a.model}".strip() for a in annotations)
        yield "annotator", ", ".join(f"{name} ({count} calls)" for name, count in sorted(who.items()))
        yield "completions scored", f"{sum(len(row.scores()) for row in findings.annotated)}"
    if findings.pairs:
        longer = sum(len(p.chosen.text.split()) > len(p.rejected.text.split()) for p in findings.pairs)
        shorter = sum(len(p.chosen.text.split()) < len(p.rejected.text.split()) for p in findings.pairs)
        n = len(findings.pairs)
        yield "pairs", f"{n}"
        yield "chosen is the longer one", f"{longer / n:.0%} of pairs (the shorter one in {shorter / n:.0%})"


def report_json(findings: Findings, table: Table | None) -> dict[str, Any]:
    """What the page shows, for machines."""
    return {
        "schema": "report/1",
        "title": findings.title,
        "seed": findings.seed,
        "base": findings.base,
        "sentence": sentence(findings.verdicts) if table else "",
        "verdicts": dict(findings.verdicts),
        "metrics": [metric.to_json() for metric in findings.metrics],
        "funnel": dict(findings.funnel),
        "failures": dict(findings.failures),
        "facts": dict(_facts(findings)),
        "calibration": dict(findings.calibration),
        "doctor": dict(findings.doctor),
        "contamination": dict(findings.contamination),
        "training": {stage: _ends(rows) for stage, rows in findings.logs.items()},
    }


def _ends(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """First and last log line of a training."""
    return {"first": dict(rows[0]), "last": dict(rows[-1])} if rows else {}
