"""From items to verdicts: who differs from whom, how surely, and whether the numbers can be trusted.

    {"schema":"verdicts/1","margin":0.02,"models":{"vlm":"5c…"},"suites":[…],"regression":[…],
     "comparisons":[{"suite":"text_instructions","model":"dpo","verdict":"partly repaired (41% [20%, 63%])",
                     "minus_vlm":{"mean":0.08,"low":0.03,"high":0.13,"p":0.004,"n":320,"mde":0.07}, …}],
     "tax":[{"model":"dpo","n_suites":3,"n_not_shown":1,"lost":{"pope":{…}},"sum":0.38}],
     "controls":[…],"warnings":[…]}

`also` (only where there are some) names the further models, `{"mlan": "trained by …, stage tune"}`: their verdict is
that of an aligned model, and says whether another tuning prevents what this one cost. The copies that a training kept
on its way (`step-500`) are among `models` and in metrics.jsonl; they are compared with nothing.

Text suites get the verdict on the regression (`align.stats.verdicts`), the others the question whether alignment cost
anything there. Models are compared on the questions for which both have a score; p-values are Holm-adjusted over the
text suites, and over the other suites, of each model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.benchmarks.measures import readable
from align.benchmarks.pope import score_yes_no
from align.benchmarks.scoring import OFFICIAL_YES_NO
from align.evaluate.metrics import outcomes
from align.evaluate.models import BACKBONE, VLM, Contestant
from align.evaluate.plan import Exam
from align.paired import difference_json
from align.settings import Judge
from align.stats import Difference, SuiteVerdict, holm_over, paired_difference, verdicts
from annotate.records import Item

Values = dict[str, dict[str, dict[str, float]]]
"""Suite -> model -> question -> headline."""


def summary(
    items: Sequence[Item],
    *,
    exams: Sequence[Exam],
    contestants: Sequence[Contestant],
    margin: float,
    seed: int,
    judge: Judge | None,
    annotator: str,
    halved: int,
    moved: Sequence[int] = (0, 0),
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of verdicts.json. `more`: further things to know of it."""
    passing = {c.name for c in contestants if c.trajectory}
    values = headlines([item for item in items if item.model not in passing], exams)
    clusters = {e.suite.name: _clusters(e) for e in exams}
    scale = {e.suite.name: e.suite.scale for e in exams}
    text = {e.suite.name for e in exams if e.suite.text}
    found = verdicts(
        {s: with_clean_backbone(values, s, exams) for s in values if s in text},
        vlm=VLM,
        backbone=BACKBONE,
        margin=margin,
        scale=scale,
        clusters=clusters,
        seed=seed,
    )
    judged = {v.suite for v in found}
    control = {e.suite.name for e in exams if e.suite.stands_apart}
    rest = {s: models for s, models in values.items() if s not in judged | control}
    beside = _side_effects(rest, clusters, margin, scale, seed)
    return {
        "schema": "verdicts/1",
        "margin": margin,
        "models": {c.name: c.sha256 for c in contestants},
        **({"also": also} if (also := {c.name: c.further for c in contestants if c.further}) else {}),
        "asked_with": {c.name: c.conditioning for c in contestants if c.conditioning},
        "suites": [
            {
                "suite": e.suite.name,
                "text": e.suite.text,
                "control": e.suite.stands_apart,
                "headline": e.suite.headline,
                "n": len(e.rows),
            }
            for e in exams
        ],
        "regression": [_regression(v) for v in found],
        "comparisons": [row for v in found for row in _repairs(v)] + beside,
        "tax": tax(beside, scale),
        "noise": noise(values, exams, clusters, seed),
        "controls": controls(items, exams),
        "warnings": [*warnings(items, judge=judge, annotator=annotator, halved=halved, moved=moved), *more],
    }


def _clusters(exam: Exam) -> dict[str, str]:
    """Cluster of every outcome; a pooled one has the cluster of its rows."""
    return {row.id: row.cluster for row in exam.rows} | {row.group: row.cluster for row in exam.rows if row.group}


def headlines(items: Sequence[Item], exams: Sequence[Exam]) -> Values:
    """What models are compared by; questions without a score are absent, and models with too few of them."""
    found = {e.suite.name: e for e in exams}
    answered: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        answered.setdefault((item.suite, item.model), []).append(item)
    values: Values = {name: {} for name in found}
    for (suite, model), mine in answered.items():
        scored = outcomes(found[suite], mine)
        if readable([o.state for o in scored]):
            headline = found[suite].suite.headline
            values[suite][model] = {o.id: o.value[headline] for o in scored if o.state == "ok"}
    return values


def with_clean_backbone(values: Values, suite: str, exams: Sequence[Exam]) -> dict[str, dict[str, float]]:
    """The scores of a suite; a backbone that cannot be shown its images answers the same questions without them.

    `text_noisy_image` asks what `text_instructions` asks. For a model that sees nothing the two are one.
    """
    scores = dict(values[suite])
    file = {e.suite.name: e.suite.file for e in exams}
    blind = [e.suite.name for e in exams if e.suite.images == "none" and e.suite.file == file[suite]]
    if BACKBONE not in scores and blind and values[blind[0]].get(BACKBONE):
        scores[BACKBONE] = values[blind[0]][BACKBONE]
    return scores


def _regression(verdict: SuiteVerdict) -> dict[str, Any]:
    return {
        "suite": verdict.suite,
        "verdict": verdict.regression,
        "vlm_minus_backbone": difference_json(verdict.vlm_minus_backbone),
    }


def _repairs(verdict: SuiteVerdict) -> list[dict[str, Any]]:
    return [
        {
            "suite": verdict.suite,
            "model": model,
            "verdict": repair.text,
            "share": None if repair.share is None else [repair.share, repair.low, repair.high],
            "minus_vlm": difference_json(verdict.aligned_minus_vlm[model]),
            "minus_backbone": difference_json(verdict.aligned_minus_backbone[model]),
        }
        for model, repair in verdict.repair.items()
    ]


def _side_effects(
    values: Values, clusters: Mapping[str, Mapping[str, str]], margin: float, scale: Mapping[str, float], seed: int
) -> list[dict[str, Any]]:
    """What alignment did where there is no regression to repair, each aligned model against the VLM."""
    models = dict.fromkeys(m for scores in values.values() for m in scores if m not in (VLM, BACKBONE))
    rows: list[dict[str, Any]] = []
    for model in models:
        differences = holm_over(
            {
                suite: paired_difference(scores[model], scores[VLM], clusters[suite], seed=seed, scale=scale[suite])
                for suite, scores in values.items()
                if scores.get(VLM, {}).keys() & scores.get(model, {}).keys()
            }
        )
        rows += [
            {
                "suite": suite,
                "model": model,
                "verdict": side_effect(difference, margin * scale[suite]),
                "share": None,
                "minus_vlm": difference_json(difference),
                "minus_backbone": None,
            }
            for suite, difference in differences.items()
        ]
    order = {suite: i for i, suite in enumerate(values)}
    return sorted(rows, key=lambda row: order[row["suite"]])


def noise(
    values: Values, exams: Sequence[Exam], clusters: Mapping[str, Mapping[str, str]], seed: int
) -> list[dict[str, Any]]:
    """What an irrelevant picture before the same questions does to each model: with it minus without it, paired."""
    rows: list[dict[str, Any]] = []
    for exam in exams:
        suite = exam.suite
        clean = [e.suite.name for e in exams if e.suite.images == "none" and e.suite.file == suite.file]
        if suite.images != "noise" or not clean:
            continue
        for model, scores in values[suite.name].items():
            without = values[clean[0]].get(model, {})
            if scores.keys() & without.keys():
                found = paired_difference(scores, without, clusters[suite.name], seed=seed, scale=suite.scale)
                rows.append(
                    {"suite": suite.name, "clean": clean[0], "model": model, "minus_clean": difference_json(found)}
                )
    return rows


def side_effect(difference: Difference, margin: float) -> str:
    """`better`, `worse`, `kept` (surely no loss of the margin or more), or `not shown`."""
    if difference.significant and difference.low > 0:
        return "better"
    if difference.significant and difference.high < 0:
        return "worse"
    return "kept" if difference.low > -margin else "not shown"


def tax(comparisons: Sequence[Mapping[str, Any]], scale: Mapping[str, float]) -> list[dict[str, Any]]:
    """What alignment cost each model where it was not meant to change anything: the suites with a significant loss.

    In: the comparisons of these suites. `sum` adds the losses as shares of each suite's scale; what could not be shown
    is no loss, and is no proof that there is none (`not_shown`).
    """
    made = []
    for model in dict.fromkeys(row["model"] for row in comparisons):
        mine = [row for row in comparisons if row["model"] == model]
        lost = [row for row in mine if row["verdict"] == "worse"]
        made.append(
            {
                "model": model,
                "n_suites": len(mine),
                "n_not_shown": sum(row["verdict"] == "not shown" for row in mine),
                "lost": {row["suite"]: row["minus_vlm"] for row in lost},
                "sum": round(sum(-row["minus_vlm"]["mean"] / scale[row["suite"]] for row in lost) + 0.0, 6),
            }
        )
    return made


# ------------------------------------------------------------------------------------------------- can it be trusted


def controls(items: Sequence[Item], exams: Sequence[Exam]) -> list[dict[str, Any]]:
    """Checks of the benchmark and of the VLM on it; `ok` is null where there is no bound to keep."""
    made: list[dict[str, Any]] = []
    rows = {e.suite.name: {row.id: row for row in e.rows} for e in exams}

    def note(suite: str, name: str, value: float, ok: bool | None, bound: str = "") -> None:
        made.append({"suite": suite, "name": name, "value": round(value, 6), "bound": bound, "ok": ok})

    for exam in exams:
        suite = exam.suite
        mine = [i for i in items if i.suite == suite.name and i.model == VLM]
        values = [i.value for i in mine if i.state == "ok"]
        if mine:
            share = len(values) / len(mine)
            note(suite.name, "share of answers that could be read", share, len(values) == len(mine), "1")
        if not values:
            continue
        if suite.file == "pope" and suite.images == "own" and not suite.corruption:
            truth, yes = (sum(v[k] for v in values) / len(values) for k in ("truth", "yes"))
            note(suite.name, "share of questions whose truth is yes", truth, 0.45 <= truth <= 0.55, "0.45 to 0.55")
            note(suite.name, "share of yes among the answers", yes, 0.35 <= yes <= 0.65, "0.35 to 0.65")
            official = [score_yes_no(rows[suite.name][i.id], [i.output], OFFICIAL_YES_NO).value for i in mine]
            said = sum(v["yes"] + v["truth"] for v in official)
            f1 = sum(2 * v["yes"] * v["truth"] for v in official) / said if said else 0.0
            note(suite.name, "F1 by POPE's own reading of the same answers", f1, None)
        if suite.images == "blank":
            accuracy = sum(v["accuracy"] for v in values) / len(values)
            note(suite.name, "accuracy when the image is uniform grey", accuracy, accuracy <= 0.55, "at most 0.55")
        if suite.chooses:
            chance = sum(v["chance"] for v in values) / len(values)
            above = sum(v["accuracy"] for v in values) / len(values) - chance
            note(suite.name, "accuracy above guessing", above, above >= 0.15, "at least 0.15")
    return made


def warnings(
    items: Sequence[Item], *, judge: Judge | None, annotator: str, halved: int, moved: Sequence[int]
) -> list[str]:
    """What a reader must know before believing the table."""
    said = []
    if judge and annotator and family(f"{judge.backend} {judge.model}") == family(annotator):
        said.append(
            f"judge and annotator are of one family ({family(annotator)}): the judge's column shows how well its own "
            "taste was learnt, not how good the answers are; the headline is not touched by it"
        )
    answered: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        answered.setdefault((item.suite, item.model), []).append(item)
    for (suite, model), mine in answered.items():
        unread = sum(item.state != "ok" for item in mine)
        if unread:
            few = readable([item.state for item in mine])
            rest = "they are in no score" if few else "too many for a score or a comparison"
            said.append(f"{suite}: {unread} of {len(mine)} answers of {model} could not be read; {rest}")
    asked = {suite for suite, _ in answered}
    for suite in sorted(s for s in asked if "+" in s and s.partition("+")[0] not in asked):
        said.append(f"{suite}: not asked about clean images, so what the corruption costs is not known; add the suite")
    if moved[0]:
        said.append(f"{moved[0]} of {moved[1]} answers asked alone were others than in their batch (rounding)")
    if halved:
        said.append(f"{halved} batch(es) were halved for lack of memory: byte-identity with another run is void")
    return said


def family(who: str) -> str:
    """`gemini gemini-2.5-pro` -> gemini; `openai_chat gpt-4o` -> gpt; `rules ` -> rules."""
    backend, _, model = who.partition(" ")
    name = model.strip().rsplit("/", 1)[-1]
    return (name or backend).split("-", 1)[0].split("_", 1)[0].casefold()
