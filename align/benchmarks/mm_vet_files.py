"""MM-Vet as its official evaluator writes grades (arXiv:2308.02490): from 0 to 1, one entry per run of the judge.

    judgments   {"v1_0": {"model": ["gpt-4-0613"], "content": ["0.5"], "score": [0.5]}, "v1_1": …}
    questions   mm-vet.json: {"v1_0": {"question": "What is x?", "capability": ["ocr", "math"]}, …}
    answers     {"v1_0": "x = -1 or x = -5", …}

The score is 100 times the mean grade; each capability counts the questions that ask for it, each integration those
that ask for exactly these. The grade is read out of `content` again: the official evaluator writes 0.0 where the judge
said no number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from align.benchmarks.files import is_missing, load_json, number
from align.benchmarks.judge_replies import read_grade
from align.benchmarks.judged import CHARS, length_measures, over_runs, said
from align.benchmarks.measures import Measure, Outcome, mean
from align.benchmarks.sheet import Files, Scorer, Sheet
from annotate.errors import UserError

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
N_QUESTIONS = 218


@dataclass(frozen=True)
class _Graded:
    """One grade of one answer; `where` names its place in the file."""

    question: str
    run: int
    judge: str
    grade: float | None
    differs: bool


def read_mm_vet(files: Files) -> list[Sheet]:
    """One sheet of all runs, those of one file and those of several."""
    graded: list[_Graded] = []
    for path in files.judgments:
        graded += _read(path, max((g.run for g in graded), default=0))
    capabilities = _capabilities(files.questions)
    answers = _answers(files.answers)
    strays = [g.question for g in graded if capabilities and g.question not in capabilities]
    if strays:
        names = ", ".join(dict.fromkeys(strays))
        raise UserError(f"grades of questions that {files.questions[0]} does not have: {names}; one benchmark?")
    runs = range(1, max(g.run for g in graded) + 1)
    by_place = {(g.question, g.run): g for g in graded}
    asked = list(capabilities or dict.fromkeys(g.question for g in graded))
    outcomes = [_outcome(q, run, by_place.get((q, run)), capabilities, answers) for run in runs for q in asked]
    warnings = _warnings(graded, len(asked) * len(runs), known=bool(capabilities), n_asked=len(asked))
    measures = over_runs(_measures(outcomes), outcomes) + length_measures(outcomes)
    return [Sheet(outcomes=outcomes, measures=measures, headline="score", warnings=tuple(warnings))]


def _warnings(graded: Sequence[_Graded], places: int, *, known: bool, n_asked: int) -> list[str]:
    judges = Counter(g.judge for g in graded if g.judge or g.grade is not None)
    differing = sum(g.differs for g in graded)
    warnings = said(
        differing,
        len(graded),
        "stored scores are not what the judge's reply says; it counts, but a stored -1 stays a failure",
    )
    warnings += said(places - len(graded), places, "grades are missing; they count as failed")
    if len(judges) > 1:
        named = ", ".join(f"{judge or 'unnamed'} ({n:,})" for judge, n in judges.most_common())
        warnings.append(f"more than one judge graded, and they are in one score: {named}")
    if not known:
        warnings.append("no capabilities without --questions mm-vet.json")
    if n_asked != N_QUESTIONS:
        warnings.append(f"{n_asked} of MM-Vet's {N_QUESTIONS} questions; published scores are of all")
    return warnings


def _read(path: Path, runs_before: int) -> list[_Graded]:
    graded: list[_Graded] = []
    faults: list[str] = []
    for key, entry in _object(path, "grades by question").items():
        contents, scores, judges = _lists(entry)
        if entry == {"model": [], "content": [], "score": []}:  # begun, and no grade came
            graded.append(_Graded(key, runs_before + 1, "", None, differs=False))
            continue
        if len(contents) != len(scores) or not scores:
            faults.append(f'{path}: {key}: expected {{"model": […], "content": […], "score": […]}} of one length')
            continue
        for n, (content, score, judge) in enumerate(zip(contents, scores, judges, strict=True), 1):
            found = None if is_missing(score) else number(score)
            if found is None and not is_missing(score):
                faults.append(f"{path}: {key}: `score`: expected numbers, found {score!r}")
                continue
            stored = None if found is None or found < 0 else found
            grade = read_grade(content) if isinstance(content, str) else None
            counts = None if stored is None else grade
            graded.append(_Graded(key, runs_before + n, str(judge), counts, differs=stored != grade))
    if faults:
        raise UserError(*faults)
    if not graded:
        raise UserError(f"{path}: no grade in it; is it the right file?")
    return graded


def _lists(entry: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Replies, scores and judges of one question; empty where they are no lists. The judge's name may be missing."""
    found = [entry.get(name) if isinstance(entry, dict) else None for name in ("content", "score", "model")]
    contents, scores, judges = (one if isinstance(one, list) else [] for one in found)
    return contents, scores, judges if len(judges) == len(scores) else [""] * len(scores)


def _object(path: Path, what: str) -> Mapping[str, Any]:
    found = load_json(path)
    if not isinstance(found, dict):
        raise UserError(f'{path}: expected one object of {what}, {{"v1_0": …}}')
    return found


def _capabilities(paths: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Question -> what it asks for, in the benchmark's order."""
    found: dict[str, tuple[str, ...]] = {}
    for path in paths:
        for key, entry in _object(path, "questions").items():
            named = entry.get("capability") if isinstance(entry, dict) else None
            if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
                raise UserError(f'{path}: {key}: `capability`: expected a list such as ["ocr", "math"]')
            order = (*CAPABILITIES, *sorted(set(named).difference(CAPABILITIES)))
            found[key] = tuple(name for name in order if name in named)
    return found


def _answers(paths: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in paths:
        for key, text in _object(path, "answers").items():
            if not isinstance(text, str):
                raise UserError(f"{path}: {key}: expected the answer's text")
            found[key] = text
    return found


def _outcome(
    question: str,
    run: int,
    graded: _Graded | None,
    capabilities: Mapping[str, Sequence[str]],
    answers: Mapping[str, str],
) -> Outcome:
    value = {} if graded is None or graded.grade is None else {"score": graded.grade}
    if value and question in answers:
        value[CHARS] = float(len(answers[question]))
    return Outcome(
        id=f"{run}:{question}",
        value=value,
        state="ok" if value else "judge_failed",
        cluster=question,
        category="+".join(capabilities.get(question, ())),
        group=str(run),
    )


def _measures(outcomes: Sequence[Outcome]) -> list[Measure]:
    score = mean("score", times=100)
    integrations = [name for name, _ in Counter(o.category for o in outcomes if o.category).most_common()]
    asked = [name for integration in integrations for name in integration.split("+")]
    order = [c for c in dict.fromkeys((*CAPABILITIES, *asked)) if c in asked]
    each = [replace(score, name=f"score_{name}", only=_asks_for(name)) for name in order]
    exact = [replace(score, name=f"integration_{name}", only=_asks_for(name, alone=True)) for name in integrations]
    return [score, *each, *exact]


def _asks_for(name: str, *, alone: bool = False) -> Callable[[Outcome], bool]:
    return lambda o: o.category == name if alone else name in o.category.split("+")


MM_VET_SCORER = Scorer(
    name="mm_vet",
    read=read_mm_vet,
    needs=("judgments",),
    takes=("questions", "answers"),
    help='--judgments the official evaluator\'s grade JSON {"v1_0": {"model", "content", "score"}} [--questions '
    "mm-vet.json, for capabilities] [--answers JSON of id -> text]",
)
