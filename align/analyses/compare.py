"""Two finished runs, question by question: what differs, how surely, and what could not be joined.

    {"schema": "compare/1", "first": {"name": "demo-seed0", …}, "second": {"name": "demo-seed1", …}, "margin": 0.02,
     "rows": [{"suite": "pope", "measure": "accuracy", "headline": true, "models": ["dpo", "dpo"],
               "first": {"value": 0.81, "low": …, "high": …, "n": 600, "n_failed": 0}, "second": {…},
               "difference": {"mean": 0.02, "low": -0.01, "high": 0.05, "p": 0.21, "n": 600, "mde": 0.043},
               "p_holm": 0.42, "test": "sign-flip", "verdict": "not shown", "why": "", "same_weights": false,
               "joined": 600, "other_input": 0, "only_first": 0, "only_second": 0, …}],
     "warnings": ["…"]}

A difference is the second run minus the first. Answers are joined by suite, question and the hash of all that the model
was shown; a suite whose answers were read by different parsers gets no number, since the readings would be compared,
not the models. Holm's correction runs over the headlines of each pair of models; other measures have their bare p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from align.analyses.runs import JUDGED, Run
from align.benchmarks.compared import compare
from align.paired import difference_json
from align.stats import LEVEL, holm
from annotate.errors import UserError
from annotate.records import Item

FEW = 0.8
"""Below this share of the questions in common a difference is of a selection."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The answers of two models to the same questions, and what is left over."""

    first: Sequence[Item]
    second: Sequence[Item]
    only_first: int
    only_second: int
    other_input: int
    """Questions of one id that were shown differently."""
    refused: str = ""
    warnings: tuple[str, ...] = field(default=())


def compare_runs(
    first: Run, second: Run, *, models: Mapping[str, str], margin: float, seed: int, all_measures: bool = False
) -> dict[str, Any]:
    """The whole comparison; `models`: of the first run -> of the second. Raises `UserError` where nothing is joined."""
    rows: list[dict[str, Any]] = []
    warnings = [
        f"{run.name}: {', '.join(run.edited)} changed since the evaluation wrote it (manifest.json): not what was "
        "measured"
        for run in (first, second)
        if run.edited
    ]
    suites = [s for s in first.headlines if s in second.headlines and s not in first.controls]
    for mine, theirs in models.items():
        found: list[dict[str, Any]] = []
        for suite in suites:
            if (suite, mine) in first.answers and (suite, theirs) in second.answers:
                joined = join(first, second, suite, mine, theirs)
                who = mine if mine == theirs else f"{mine}, {theirs}"
                warnings += [f"{suite} ({who}): {text}" for text in joined.warnings]
                pair = mine, theirs
                found += _rows(first, second, suite, pair, joined, margin=margin, seed=seed, every=all_measures)
        rows += _adjusted(found)
    if not any(row["joined"] for row in rows):
        raise UserError(
            f"{first.folder} and {second.folder}: no question in common; {_why_nothing(first, second, rows)}"
        )
    warnings += _unclustered(first, second, {row["suite"] for row in rows})
    return {
        "schema": "compare/1",
        "first": _about(first),
        "second": _about(second),
        "margin": margin,
        "seed": seed,
        "rows": rows,
        "not_compared": _not_compared(first, second, models),
        "warnings": list(dict.fromkeys(warnings)),
    }


def _why_nothing(first: Run, second: Run, rows: Sequence[Mapping[str, Any]]) -> str:
    if rows:
        n = sum(row["other_input"] for row in rows)
        return f"{n} have one id but were shown differently" if n else "they asked different questions"
    return (
        f"the first has {', '.join(first.models)} on {', '.join(first.headlines)}, the second "
        f"{', '.join(second.models)} on {', '.join(second.headlines)}; say which models with --model FIRST=SECOND"
    )


def _about(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "models": dict(run.verdicts["models"]),
        "commit": run.manifest.commit,
        "seeds": dict(run.manifest.seeds),
        "evaluate_sha256": run.manifest.identity_sha256,
    }


# ---------------------------------------------------------------------------------------------------------- joining


def join(first: Run, second: Run, suite: str, mine: str, theirs: str) -> Joined:
    """The answers to the questions that both models were asked in the same words, with the same images."""
    a = {item.id: item for item in first.answers[suite, mine]}
    b = {item.id: item for item in second.answers[suite, theirs]}
    shown = _shown(first, suite, mine), _shown(second, suite, theirs)
    common = [i for i in a if i in b]
    alike = [i for i in common if shown[0].get(i) == shown[1].get(i)]
    warnings = []
    if len(alike) < len(common):
        warnings.append(f"{len(common) - len(alike)} of {len(common)} questions were shown differently: not joined")
    if len(alike) < FEW * max(len(a), len(b)):
        warnings.append(f"only {len(alike)} questions in common of {len(a)} and {len(b)}: a selection")
    used = [a[i] for i in alike], [b[i] for i in alike]
    decodings = [_distinct(str(sorted(i.decoding.items())) for i in side) for side in used]
    if decodings[0] != decodings[1]:
        warnings.append(
            f"decoded differently ({'; '.join(_plain(side) for side in used)}): no difference of models alone"
        )
    parsers = [_distinct(i.parser for i in side) for side in used]
    refused = ""
    if parsers[0] != parsers[1]:
        refused = f"answers were read by {', '.join(parsers[0])} and by {', '.join(parsers[1])}: no difference is given"
        warnings.append(f"{refused}; run `align evaluate` again in the run with the older one")
    return Joined(
        first=used[0],
        second=used[1],
        only_first=len(a) - len(common),
        only_second=len(b) - len(common),
        other_input=len(common) - len(alike),
        refused=refused,
        warnings=tuple(warnings),
    )


def _shown(run: Run, suite: str, model: str) -> dict[str, str]:
    """Question -> hash of what was shown; a judge was shown the answer, so the question's own hash stands for it."""
    return {item.id: item.input_sha256 for item in run.answers.get((suite.removesuffix(JUDGED), model), ())}


def _distinct(values: Any) -> list[str]:
    return sorted(set(values))


def _plain(items: Sequence[Item]) -> str:
    decoding = items[0].decoding if items else {}
    return ", ".join(f"{name}={value}" for name, value in decoding.items()) or "not said"


def _not_compared(first: Run, second: Run, models: Mapping[str, str]) -> dict[str, Any]:
    """What one run has and the other lacks."""
    return {
        "models_only_first": [m for m in first.models if m not in models],
        "models_only_second": [m for m in second.models if m not in models.values()],
        "suites_only_first": [s for s in first.headlines if s not in second.headlines],
        "suites_only_second": [s for s in second.headlines if s not in first.headlines],
    }


def _unclustered(first: Run, second: Run, suites: set[str]) -> list[str]:
    blind = sorted(
        s.removesuffix(JUDGED) for s in suites if s.removesuffix(JUDGED) not in {**first.places, **second.places}
    )
    if not blind:
        return []
    return [
        f"{', '.join(dict.fromkeys(blind))}: which questions share an image is not recorded in these runs; they are "
        "taken as independent, so intervals may be too narrow. Give the benchmark files with --folder"
    ]


# ------------------------------------------------------------------------------------------------------------ the rows


def _rows(
    first: Run,
    second: Run,
    suite: str,
    models: tuple[str, str],
    joined: Joined,
    *,
    margin: float,
    seed: int,
    every: bool,
) -> list[dict[str, Any]]:
    """One row per measure, the headline first."""
    known = second if suite.removesuffix(JUDGED) in second.places else first  # the same questions, wherever it is said
    sides = [
        known.outcomes(suite, m, items=side) for m, side in zip(models, (joined.first, joined.second), strict=True)
    ]
    digests = first.verdicts["models"].get(models[0]), second.verdicts["models"].get(models[1])
    made = []
    for measure in first.measures(suite)[: None if every else 1]:
        found = compare(measure, sides[1], sides[0], seed=seed, scale=first.scale(suite))
        difference = None if joined.refused else found.difference
        headline = measure.name == first.headlines[suite]
        made.append(
            {
                "suite": suite,
                "measure": measure.name,
                "headline": headline,
                "models": list(models),
                "first": asdict(found.second),
                "second": asdict(found.first),
                "difference": None if difference is None else difference_json(difference),
                "p_holm": None,
                "test": found.test if difference else "",
                "verdict": "",
                "why": joined.refused or found.why,
                "same_weights": digests[0] == digests[1],
                "joined": len(joined.first),
                "other_input": joined.other_input,
                "only_first": joined.only_first,
                "only_second": joined.only_second,
                "scored_only_first": found.n_only_second,
                "scored_only_second": found.n_only_first,
                "scale": first.scale(suite),
                "margin": margin * first.scale(suite),
            }
        )
    return made


def _adjusted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Holm's p over the headlines, and the word that follows from it."""
    headlines = [row for row in rows if row["headline"]]
    adjusted = holm({row["suite"]: row["difference"]["p"] for row in headlines if row["difference"]})
    for row in headlines:
        found = adjusted.get(row["suite"])
        row["p_holm"] = None if found is None else round(found, 6)
        row["verdict"] = _verdict(row["difference"], found, row["margin"])
    return rows


def _verdict(difference: Mapping[str, Any] | None, p: float | None, margin: float) -> str:
    """Of the second run: `better`, `worse`, `equal` (surely within the margin), or `not shown`."""
    if difference is None or p is None:
        return "not compared"
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "not shown"
    if p < 1 - LEVEL and (low > 0 or high < 0):
        return "better" if low > 0 else "worse"
    return "equal" if -margin < low and high < margin else "not shown"
