"""The verdict table: a row per model, a column per suite, and what the differences amount to, in words.

sentence(findings.verdicts, …)   ->  "Visual tuning cost this model 46 points of its text answers …"
render_text(table)               ->  table.txt, at most 120 columns wide
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from annotate.records import Metric

MODELS = {
    "backbone": "language backbone",
    "vlm": "VLM",
    "sft": "SFT on teacher",
    "steerlm": "SteerLM",
    "rejection": "rejection sampling",
    "dpo": "DPO",
}
SUITES = {
    "text_instructions": "text, two turns",
    "text_noisy_image": "text, noisy image",
    "open_visual": "open visual",
    "pope": "yes/no (POPE)",
    "pope_blank": "yes/no, blank",
    "choice": "multiple choice",
}
PROSE = {
    "text_instructions": "two-turn text instructions",
    "text_noisy_image": "text instructions beside an irrelevant image",
    "open_visual": "open-ended questions about images",
    "pope": "yes/no questions about images",
    "choice": "multiple choice about images",
}
BETTER, WORSE = "▲", "▼"
SIGNIFICANT = 0.05
_ENDS = ("mean", "low", "high")
WIDTH = 120


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model on one suite; `value` None: too little could be read to say."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_failed: int
    mark: str = ""
    """Significantly better or worse than the VLM (paired, Holm-adjusted)."""

    def text(self) -> str:
        """`0.81 [0.76, 0.86]▲`"""
        if self.value is None:
            return "unreadable"
        bounds = "" if self.low is None or self.high is None else f" [{short(self.low)},{short(self.high)}]"
        return f"{short(self.value)}{bounds}{self.mark}{'*' if self.n_failed else ''}"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One suite of the table."""

    suite: str
    label: str
    measure: str
    n: int
    text: bool
    control: bool
    """Says whether the benchmark can be trusted, not how good a model is; stands apart."""
    cells: Mapping[str, Cell]
    """By model; a model that cannot take the suite is absent."""
    beside: Mapping[str, Mapping[str, Cell]]
    """Further measures of the suite, by name, then model."""


@dataclass(frozen=True, kw_only=True)
class Table:
    models: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def suites(self) -> tuple[Column, ...]:
        """The columns that compare models."""
        return tuple(c for c in self.columns if not c.control)


def build_table(verdicts: Mapping[str, Any], metrics: Sequence[Metric]) -> Table:
    """The table of a finished evaluation."""
    marks = {(row["suite"], row["model"]): _mark(row["minus_vlm"]) for row in verdicts["comparisons"]}
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for m in metrics:
        cell = Cell(
            value=m.value, low=m.low, high=m.high, n=m.n, n_failed=m.n_failed, mark=marks.get((m.suite, m.model), "")
        )
        found.setdefault((m.suite, m.name), {})[m.model] = cell
    columns = []
    for suite in verdicts["suites"]:
        name, headline = suite["suite"], suite["headline"]
        beside = {measure: cells for (s, measure), cells in found.items() if s == name and measure != headline}
        columns.append(
            Column(
                suite=name,
                label=SUITES.get(name, name.replace("_", " ")),
                measure=headline,
                n=suite["n"],
                text=suite["text"],
                control=suite["control"],
                cells=found.get((name, headline), {}),
                beside=beside,
            )
        )
    return Table(models=tuple(verdicts["models"]), columns=tuple(columns))


def _mark(difference: Mapping[str, Any] | None) -> str:
    if difference is None or difference["p"] >= SIGNIFICANT or not difference["mean"]:
        return ""
    return BETTER if difference["mean"] > 0 else WORSE


def short(value: float) -> str:
    """0.81 as .81, 1.0 as 1.0: seven numbers have to stand side by side."""
    text = f"{value:.2f}"
    return "1.0" if text == "1.00" else text.removeprefix("0") if text.startswith("0.") else text


# ---------------------------------------------------------------------------------------------------- in one sentence


def sentence(verdicts: Mapping[str, Any], table: Table) -> str:
    """What happened, for the first line: what was lost, what alignment made of it, and what that cost."""
    parts = [_loss(verdicts, table)]
    aligned = [m for m in table.models if m not in ("backbone", "vlm")]
    if aligned:
        main = "dpo" if "dpo" in aligned else aligned[-1]
        parts += [_gain(verdicts, main), _best(verdicts, main), _cost(verdicts, main)]
    return " ".join(part for part in parts if part)


def _loss(verdicts: Mapping[str, Any], table: Table) -> str:
    if not verdicts["regression"]:
        return "" if any(c.text for c in table.columns) else "No text suite was run: nothing is said of a regression."
    first = verdicts["regression"][0]
    suite = _prose(first["suite"])
    if first["verdict"] == "present":
        lost = points(-first["vlm_minus_backbone"]["mean"])
        return f"Visual tuning cost this language model {lost} points on {suite}."
    if first["verdict"] == "none":
        return f"Visual tuning cost this language model nothing that matters on {suite}."
    return f"A regression by visual tuning on {suite} is not shown."


def _text_row(verdicts: Mapping[str, Any], model: str) -> Mapping[str, Any] | None:
    """The comparison that the sentence is about: the model on the first text suite."""
    text = [s["suite"] for s in verdicts["suites"] if s["text"]]
    rows = [row for row in verdicts["comparisons"] if row["model"] == model and row["suite"] in text[:1]]
    return rows[0] if rows else None


def _gain(verdicts: Mapping[str, Any], model: str) -> str:
    row = _text_row(verdicts, model)
    if row is None:
        return ""
    name, gain = MODELS.get(model, model), f"({signed(row['minus_vlm'])})"
    if row["share"]:
        share, low, high = (None if x is None else f"{x:.0%}" for x in row["share"])
        return f"{name} won back {share} [{low or '?'}, {high or '?'}] of that {gain}."
    said = {
        "repaired": f"{name} repaired it {gain}.",
        "worse": f"{name} made it worse {gain}.",
        "better": f"{name} made it better {gain}.",
        "kept": f"{name} left it as it was {gain}.",
        "nothing to repair": f"There was nothing for {name} to repair {gain}.",
    }
    return said.get(row["verdict"], f"That {name} wins any of it back is not shown {gain}.")


def _best(verdicts: Mapping[str, Any], main: str) -> str:
    """Another method that did better than the VLM for sure, and more so than the main one: not to be kept quiet."""
    gains = {m: row["minus_vlm"] for m in verdicts["models"] if (row := _text_row(verdicts, m))}
    better = {m: d for m, d in gains.items() if _mark(d) == BETTER}
    best = max(better, key=lambda m: better[m]["mean"], default=None)
    if best is None or best == main or (main in better and better[main]["mean"] >= better[best]["mean"]):
        return ""
    return f"{MODELS.get(best, best)} gained more ({signed(better[best])})."


def _cost(verdicts: Mapping[str, Any], model: str) -> str:
    text = {s["suite"] for s in verdicts["suites"] if s["text"]}
    rows = [row for row in verdicts["comparisons"] if row["model"] == model and row["suite"] not in text]
    losses = [row for row in rows if row["verdict"] == "worse"]
    if losses:
        listed = ", ".join(f"{_prose(row['suite'])} {signed(row['minus_vlm'])}" for row in losses)
        return f"It cost {MODELS.get(model, model)} {listed}."
    return f"On images {MODELS.get(model, model)} is nowhere significantly worse." if rows else ""


def _prose(suite: str) -> str:
    return PROSE.get(suite, suite.replace("_", " "))


def points(value: float) -> str:
    """0.457 -> 46: hundredths of the scale."""
    return f"{100 * value:.0f}"


def signed(difference: Mapping[str, Any] | None) -> str:
    """`+0.08 [+0.03, +0.13]`"""
    if difference is None:
        return "–"
    mean, low, high = (x if x is None else f"{x:+.2f}".replace("-", "−") for x in map(difference.get, _ENDS))
    return f"{mean}" if low is None or high is None else f"{mean} [{low}, {high}]"


def p_text(p: float) -> str:
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


# ------------------------------------------------------------------------------------------------------ for a terminal


def render_text(title: str, base: str, verdicts: Mapping[str, Any], table: Table) -> str:
    """table.txt."""
    out = [title, *([f"model: {base}"] if base else []), "", *_wrap(sentence(verdicts, table)), ""]
    out += _headline_rows(table)
    out += ["", *_beside_rows(table)]
    out += ["", *_legend(table, verdicts["margin"]), ""]
    out += _verdict_lines(verdicts)
    if verdicts["warnings"]:
        out += ["", *(line for w in verdicts["warnings"] for line in _wrap(f"! {w}", "  "))]
    broken = [c for c in verdicts["controls"] if c["ok"] is False]
    out += [""] if broken else []
    for c in broken:
        label = SUITES.get(c["suite"], c["suite"])
        out += _wrap(f"! control not met: {label}: {c['name']} is {c['value']:.2f}, should be {c['bound']}", "  ")
    return "\n".join(out).rstrip() + "\n"


def _headline_rows(table: Table) -> list[str]:
    """The table itself, in as many blocks as fit the width."""
    blocks: list[list[str]] = []
    columns = list(table.suites)
    while columns:
        fitting = next((n for n in range(len(columns), 1, -1) if _width(table.models, columns[:n]) <= WIDTH), 1)
        blocks.append(_block(table.models, columns[:fitting]))
        columns = columns[fitting:]
    return [line for i, block in enumerate(blocks) for line in ([""] if i else []) + block]


def _block(models: Sequence[str], columns: Sequence[Column]) -> list[str]:
    head = [
        ["", *(c.label for c in columns)],
        ["", *(c.measure for c in columns)],
        ["", *(f"n={c.n}" for c in columns)],
    ]
    body = [[MODELS.get(m, m), *(c.cells[m].text() if m in c.cells else "–" for c in columns)] for m in models]
    lines = _aligned([*head, *body])
    return [*lines[:3], "-" * max(map(len, lines)), *lines[3:]]


def _width(models: Sequence[str], columns: Sequence[Column]) -> int:
    return max(map(len, _block(models, columns)))


def _beside_rows(table: Table) -> list[str]:
    """F1 and yes-ratio of yes/no suites, the judge's score, and how long answers are."""
    wanted = {"accuracy": "acc.", "f1": "F1", "yes_ratio": "yes", "rubric": "judge", "n_words": "words"}
    further = [(c, {**c.beside, **({c.measure: c.cells} if c.control else {})}) for c in table.columns]
    shown = [(c, m) for c, measures in further for m in wanted if m in measures]
    if not shown:
        return []
    head = [["beside it", *(f"{c.suite}" for c, _ in shown)], ["", *(wanted[m] for _, m in shown)]]
    body = [
        [
            MODELS.get(model, model),
            *(_beside((c.cells if m == c.measure else c.beside[m]).get(model)) for c, m in shown),
        ]
        for model in table.models
    ]
    # Names of suites are long, numbers here short: the name stands over the first of its columns only.
    for i in range(len(shown) - 1, 0, -1):
        if shown[i][0] is shown[i - 1][0]:
            head[0][i + 1] = ""
    return _merged(head, body)


def _beside(cell: Cell | None) -> str:
    return "–" if cell is None or cell.value is None else f"{cell.value:.1f}" if cell.value > 1 else short(cell.value)


def _merged(head: list[list[str]], body: list[list[str]]) -> list[str]:
    """Narrow columns in groups, each group under its suite's name."""
    widths = [max(len(row[i]) for row in [head[1], *body]) for i in range(len(body[0]))]
    widths[0] = max(widths[0], len(head[0][0]))
    starts = [i for i, name in enumerate(head[0]) if i and name] + [len(widths)]
    for start, end in pairwise(starts):
        room = sum(widths[start:end]) + 2 * (end - start - 1)
        widths[end - 1] += max(0, len(head[0][start]) - room)
    lines = [_line(row, widths) for row in [head[1], *body]]
    names = head[0][0].ljust(widths[0])
    for start, end in pairwise(starts):
        room = sum(widths[start:end]) + 2 * (end - start - 1)
        names += "  " + head[0][start].rjust(room)
    return [names.rstrip(), *lines]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [_line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _legend(table: Table, margin: float) -> list[str]:
    said = (
        f"[95% interval]  {BETTER} {WORSE} significantly better, worse than the VLM (paired sign-flip test, Holm, 5%)"
    )
    said += f"  kept: surely no loss of {points(margin)} points or more  not shown: too few questions to say"
    if any(cell.n_failed for c in table.columns for cell in c.cells.values()):
        said += "  * some answers could not be read"
    return _wrap(said)


def _verdict_lines(verdicts: Mapping[str, Any]) -> list[str]:
    """One line per verdict, aligned."""
    rows: list[list[str]] = []
    for row in verdicts["regression"]:
        d = row["vlm_minus_backbone"]
        label = SUITES.get(row["suite"], row["suite"])
        rows.append([label, "VLM − backbone", signed(d), p_text(d["p"]), f"regression: {row['verdict']}"])
    for row in verdicts["comparisons"]:
        d = row["minus_vlm"]
        label, name = SUITES.get(row["suite"], row["suite"]), MODELS.get(row["model"], row["model"])
        rows.append([label, f"{name} − VLM", signed(d), p_text(d["p"]), row["verdict"]])
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = []
    last = ""
    for row in rows:
        label = row[0] if row[0] != last else ""
        last = row[0]
        cells = (text.ljust(w) for text, w in zip([label, *row[1:4]], widths, strict=True))
        lines.append(("  ".join(cells) + "  " + row[4]).rstrip())
    return lines


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)
