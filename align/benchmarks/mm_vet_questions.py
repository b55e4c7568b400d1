"""MM-Vet to be run (arXiv:2308.02490): open questions about a picture, graded from 0 to 1 against the true answer.

    files: {mm_vet: {questions: mm-vet.json, images: images}}                                 the benchmark's own files

    {"v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]}}

The question is put as it stands. The score is 100 times the mean grade; each capability counts the questions that ask
for it, so one question counts in several.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from align.benchmarks.files import Line, load_json
from align.benchmarks.judge_asks import Ask, Judged, Judgement, Values, Writing, mean_of, words_of
from align.benchmarks.judge_replies import MM_VET_GRADE, read_grade
from align.benchmarks.measures import Measure, Outcome, mean
from align.benchmarks.published import Source, bare, row_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.suite import Suite
from annotate.errors import UserError

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


def read_mm_vet(source: Source) -> list[Row]:
    """The questions of mm-vet.json. Raises `UserError` with every fault."""
    path = source["questions"]
    found = load_json(path)
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UserError(f'{path}: expected one object of questions, {{"v1_0": {{"imagename": …, "question": …}}}}')
    faults: list[str] = []
    rows = []
    for number, (key, entry) in enumerate(found.items(), 1):
        try:
            rows.append(_row(source, key, Line(path, number, entry)))
        except UserError as error:
            faults += [f"{fault} ({key})" for fault in error.faults]
    if faults:
        raise UserError(*faults)
    return rows


def _row(source: Source, key: str, line: Line) -> Row:
    capability = line.get("capability")
    if not isinstance(capability, list) or not capability or not set(capability) <= set(CAPABILITIES):
        raise line.fault(f"`capability`: expected a list of {', '.join(CAPABILITIES)}")
    text = bare(line.text("question"))
    category = "+".join(name for name in CAPABILITIES if name in capability)
    question = Question(text=text, kind=category, truth={"reference": line.text("answer")})
    image = source.image(line.text("imagename"), line)
    return row_of(suite="mm_vet", id=key, text=text, image=image, question=question, category=category)


def _asks(row: Row, outputs: Sequence[str]) -> list[Ask]:
    truth = row.questions[0].truth or {}
    texts = {"question": row.questions[0].text, "ref_answer_1": truth["reference"], "answer": outputs[0]}
    return [Ask(name="grade", prompt="mm_vet", texts=texts)]


def _value(row: Row, outputs: Sequence[str], grades: Mapping[str, Sequence[float]]) -> Values:
    return {"score": 100 * mean_of(grades["grade"]), "n_words": words_of(outputs)}


def _files(writing: Writing) -> dict[str, str]:
    """`<model>.json` and `<model>_<judge>-grade-<n>runs.json`, as the official evaluator writes them.

    A grade that could not be had is -1 there, which is no grade; the official one writes 0.0.
    """
    made = {}
    for model, answered in writing.models.items():
        answers = {found.row.id: found.outputs[0] for found in answered}
        grades = {found.row.id: _grade(found.judgements) for found in answered}
        made[f"{model}.json"] = _json(answers)
        made[f"{model}_{writing.judge}-grade-{writing.repeats}runs.json"] = _json(grades)
    return made


def _grade(found: Sequence[Judgement]) -> dict[str, object]:
    return {
        "model": [one.judge for one in found],
        "content": [one.reply for one in found],
        "score": [-1 if one.grade is None else one.grade for one in found],
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _asks_for(capability: str) -> Callable[[Outcome], bool]:
    return lambda outcome: capability in outcome.category.split("+")


def _measures() -> tuple[Measure, ...]:
    score = mean("score")
    each = (replace(score, name=capability, only=_asks_for(capability)) for capability in CAPABILITIES)
    return (score, *each, mean("n_words"))


MM_VET = Suite(
    name="mm_vet",
    file="mm_vet",
    text=False,
    parser=MM_VET_GRADE,
    measures=_measures(),
    headline="score",
    scale=100.0,
    roles={"questions": True, "images": True},
    read=read_mm_vet,
    judged=Judged(prompts=("mm_vet",), parser=MM_VET_GRADE, asks=_asks, read=read_grade, value=_value, files=_files),
)
