r"""LLaVA-Bench as its reviews are published (arXiv:2304.08485): the judge grades a reference and the model together.

    judgments   {"question_id":0,"answer1_id":"Tey…","answer2_id":"YK9…","category":"llava_bench_conv",
                 "content":"8 10\nBoth …","tuple":[8.0,10.0]}
    questions   {"question_id":0,"category":"conv","text":"What is …"}
    answers     {"question_id":0,"text":"The image …","answer_id":"YK9…"}

The score is 100 times the model's mean grade over the reference's. Each file is a run of the judge over the same
answers: the score is the mean of the runs' scores. A review that says no two grades is a failure in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from align.benchmarks.files import Line, is_missing, number, once, read_table
from align.benchmarks.judge_replies import read_pair
from align.benchmarks.judged import CHARS, last_of, length_measures, over_runs, said
from align.benchmarks.measures import Outcome, mean, ratio, within
from align.benchmarks.sheet import Files, Scorer, Sheet
from annotate.errors import UserError

CATEGORIES = ("conv", "detail", "complex")
_SCORE = ratio("score", lambda v: v["second"], lambda v: v["first"], times=100)


def read_llava_bench(files: Files) -> list[Sheet]:
    """One sheet of all runs."""
    runs, warnings = [], []
    for path in files.judgments:
        reviews, repeated = _read(path)
        runs.append(reviews)
        warnings += said(repeated, len(reviews) + repeated, f"reviews in {path.name} came again; the last one counts")
    questions = once((line for path in files.questions for line in read_table(path)), "question_id")
    answers = once((line for path in files.answers for line in read_table(path)), "question_id")
    asked = dict(questions) or {key: line for reviews in runs for key, line in reviews.items()}
    _check(runs, asked, answers)
    outcomes, differing = [], 0
    for n, reviews in enumerate(runs, 1):
        for key, question in asked.items():
            review = reviews.get(key)
            answer = answers.get(key)
            outcomes.append(_outcome(key, str(n), review, question, answer))
            differing += review is not None and "tuple" in review.fields and _stored(review) != _said(review)
    found = sum(len(reviews) for reviews in runs)
    warnings += said(
        differing, found, "stored tuples are not what the review says; it counts, but a stored -1 stays a failure"
    )
    warnings += said(
        len(runs) * len(asked) - found, len(runs) * len(asked), "reviews are missing; they count as failed"
    )
    warnings += _other_answers(runs, answers)
    there = dict.fromkeys((*CATEGORIES, *(o.category for o in outcomes)))
    measures = [_SCORE, *(within(_SCORE, c) for c in there if any(o.category == c for o in outcomes))]
    measures += [mean("model_grade", "second"), mean("reference_grade", "first")]
    measures = over_runs(measures, outcomes) + length_measures(outcomes)
    return [Sheet(outcomes=outcomes, measures=measures, headline="score", warnings=tuple(warnings))]


def _read(path: Path) -> tuple[dict[str, Line], int]:
    """The reviews of a run by question, and how many were there more than once."""
    rows = [(line.key("question_id"), line) for line in read_table(path)]
    if not rows:
        raise UserError(f"{path}: no review in it; is it the right file?")
    kept, repeated = last_of(rows, lambda row: row[0])
    other = dict(kept)
    faults = [
        f"{line.where}: reviews another answer to question {key} than line {other[key].number}; two models in one file?"
        for key, line in rows
        if line.fields.get("answer2_id") != other[key].fields.get("answer2_id")
    ]
    if faults:
        raise UserError(*faults)
    return other, repeated


def _check(runs: Sequence[Mapping[str, Line]], asked: Mapping[str, Line], answers: Mapping[str, Line]) -> None:
    faults = [
        f"{line.where}: reviews a question that is not asked; are the files of one benchmark?"
        for reviews in runs
        for key, line in reviews.items()
        if key not in asked
    ]
    for key, answer in answers.items():
        answer.text("text")
        if key not in asked:
            faults.append(f"{answer.where}: answers a question that is not asked; are the files of one benchmark?")
    if faults:
        raise UserError(*faults)


def _said(review: Line) -> tuple[float, float] | None:
    return read_pair(review.text("content")) if review.get("content") is not None else None


def _stored(review: Line) -> tuple[float, float] | None:
    """The stored grades; None where they say that the judge failed: -1, nothing, NaN."""
    found = review.get("tuple")
    if found is None or found == [] or (isinstance(found, list) and any(map(is_missing, found))):
        return None
    grades = [number(grade) for grade in found] if isinstance(found, list) else []
    first, second = grades if len(grades) == 2 else (None, None)
    if first is None or second is None:
        raise review.fault("`tuple`: expected two numbers such as [8.0, 10.0]")
    return None if min(first, second) < 0 else (first, second)


def _outcome(key: str, run: str, review: Line | None, question: Line, answer: Line | None) -> Outcome:
    pair = None if review is None or ("tuple" in review.fields and _stored(review) is None) else _said(review)
    value: dict[str, float] = {}
    if pair:
        value = {"first": pair[0], "second": pair[1]}
        if answer:
            value[CHARS] = float(len(answer.text("text")))
    category = question.text("category").removeprefix("llava_bench_")
    return Outcome(
        id=f"{run}:{key}",
        value=value,
        state="ok" if pair else "judge_failed",
        cluster=key,
        category=category,
        group=run,
    )


def _other_answers(runs: Sequence[Mapping[str, Line]], answers: Mapping[str, Line]) -> list[str]:
    """Runs that are not of the same answers say nothing about the judge alone."""
    warnings = []
    for name, whose in (("answer2_id", "the model's"), ("answer1_id", "the reference's")):
        ids = [{key: line.fields.get(name) for key, line in reviews.items()} for reviews in runs]
        others = sum(one.get(key) != ids[0].get(key) for one in ids[1:] for key in one.keys() & ids[0].keys())
        of = sum(len(one.keys() & ids[0].keys()) for one in ids[1:])
        warnings += said(others, of, f"reviews are of other answers ({whose}, {name}) than the first file's")
    strange = [line for reviews in runs for key, line in reviews.items() if _is_other(line, answers.get(key))]
    return warnings + said(len(strange), sum(map(len, runs)), "reviews are not of the answers of --answers (answer_id)")


def _is_other(review: Line, answer: Line | None) -> bool:
    if answer is None or "answer_id" not in answer.fields or "answer2_id" not in review.fields:
        return False
    return bool(answer.get("answer_id") != review.get("answer2_id"))


LLAVA_BENCH_SCORER = Scorer(
    name="llava_bench",
    read=read_llava_bench,
    needs=("judgments",),
    takes=("questions", "answers"),
    help="--judgments review JSONL (question_id, category, content, tuple), several files: runs of the judge "
    "[--questions JSONL] [--answers JSONL]",
)
