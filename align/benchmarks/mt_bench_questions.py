"""MT-Bench to be run (arXiv:2306.05685): 80 questions of two turns in 8 categories, graded by a judge from 1 to 10.

    files: {mt_bench: {questions: question.jsonl, references: reference_answer/gpt-4.jsonl}}        FastChat's own files

    {"question_id": 81, "category": "writing", "turns": ["Compose …", "Rewrite …"]}                  questions
    {"question_id": 101, "choices": [{"index": 0, "turns": ["…", "…"]}], …}                          references

Temperatures are FastChat's, by category; math, reasoning and coding are graded beside a reference. A turn's grade is
its own; the second is graded with the whole dialogue in view. Answers and judgments are written in FastChat's layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align.benchmarks.files import Line, once
from align.benchmarks.judge_asks import (
    Answered,
    Ask,
    Judged,
    Judgement,
    Values,
    Writing,
    json_lines,
    mean_of,
    number_or_text,
    words_of,
)
from align.benchmarks.judge_replies import MT_BENCH_RATING, read_rating
from align.benchmarks.measures import mean, within
from align.benchmarks.published import Source
from align.benchmarks.rows import Question, Row
from align.benchmarks.suite import NoiseKind, Suite
from annotate.errors import UserError
from annotate.records import IMAGE_PLACEHOLDER, Prompt, Turn, content_id, sha256_of

TEMPERATURE = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""By category; the others are answered greedily."""
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
REFERENCED = ("math", "reasoning", "coding")
WRONG = {
    "104": "d24ed53d",
    "105": "7ec1b780",
    "109": "d0bd39d8",
    "111": "3e777727",
    "113": "d364e563",
    "114": "f9adbdad",
    "120": "d2a170a8",
    "122": "af4e6877",
    "124": "5060a8c4",
    "125": "f9dce17c",
    "126": "dd464300",
    "128": "fb788778",
    "130": "aac8a3b2",
}
"""References of FastChat's own file that are known to be wrong (FastChat issue 3158), by a hash of what they say."""


def read_mt_bench(source: Source) -> list[Row]:
    """The questions with their references. Raises `UserError` with every fault as `file:line: what`."""
    questions = once(source.table(), "question_id")
    answers = once(source.table("references"), "question_id") if "references" in source else {}
    faults: list[str] = []
    rows = []
    for key, line in questions.items():
        try:
            rows.append(_row(key, line, _references(answers[key]) if key in answers else ()))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)
    return rows


def _row(key: str, line: Line, references: Sequence[str]) -> Row:
    turns, category = line.get("turns"), line.text("category")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
        raise line.fault("`turns`: expected a list of questions")
    if category in REFERENCED and len(references) != len(turns):
        raise line.fault(
            f"{category} is graded beside reference answers, one a turn; `references` has {len(references)} for it"
        )
    texts = [text.replace(IMAGE_PLACEHOLDER, "image") for text in turns]
    return Row(
        id=key,
        suite="mt_bench",
        prompt=Prompt.of((Turn(role="user", text=texts[0]),), source="mt_bench", source_id=key),
        questions=tuple(
            Question(text=text, kind=category, truth={"reference": references[i]} if category in REFERENCED else {})
            for i, text in enumerate(texts)
        ),
        category=category,
        temperature=TEMPERATURE.get(category, 0.0),
    )


def _references(line: Line) -> list[str]:
    choices = line.get("choices")
    try:
        turns = choices[0]["turns"]
    except (TypeError, KeyError, IndexError):
        turns = None
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise line.fault("`choices`: expected [{index, turns: [...]}], as FastChat writes answers")
    return turns


# ------------------------------------------------------------------------------------------------------------ judging


def _asks(row: Row, outputs: Sequence[str]) -> list[Ask]:
    """One ask a turn; the second shows both."""
    references = [question.truth["reference"] for question in row.questions if question.truth]
    name = "single-math-v1" if references else "single-v1"
    asks = []
    for i, question in enumerate(row.questions, 1):
        if i == 1:
            texts = {"question": question.text, "answer": outputs[0]}
            texts |= {"ref_answer_1": references[0]} if references else {}
            asks.append(Ask(name="turn_1", prompt=name, texts=texts))
        else:
            texts = {f"question_{k}": asked.text for k, asked in enumerate(row.questions[:i], 1)}
            texts |= {f"answer_{k}": said for k, said in enumerate(outputs[:i], 1)}
            texts |= {f"ref_answer_{k}": said for k, said in enumerate(references[:i], 1)}
            asks.append(Ask(name=f"turn_{i}", prompt=f"{name}-multi-turn", texts=texts))
    return asks


def _value(row: Row, outputs: Sequence[str], grades: Mapping[str, Sequence[float]]) -> Values:
    turns = {name: mean_of(said) for name, said in grades.items()}
    return {"score": mean_of(list(turns.values())), **turns, "n_words": words_of(outputs)}


def _told(rows: Sequence[Row]) -> list[str]:
    """Whose references these are."""
    said = {row.id: [q.truth["reference"] for q in row.questions if q.truth] for row in rows}
    said = {key: references for key, references in said.items() if references}
    wrong = sum(key in said and sha256_of(said[key])[:8] == known for key, known in WRONG.items())
    if not said:
        return []
    which = f"its {len(said)} reference answers (sha256 {sha256_of(said)[:12]})"
    if wrong:
        return [f"{wrong} of {which} are FastChat's own and known to be wrong (FastChat issue 3158)"]
    return [f"{which} hold none of those that are known to be wrong (FastChat issue 3158)"]


# -------------------------------------------------------------------------------------------------------------- files


def _files(writing: Writing) -> dict[str, str]:
    """`model_answer/<model>.jsonl` and `model_judgment/<judge>_single.jsonl`; each repeat in a file of its own.

    Times are 0: what is compiled from the same records has the same bytes.
    """
    made = {}
    for model, answered in writing.models.items():
        made[f"model_answer/{model}.jsonl"] = json_lines(_answer(a, model) for a in answered)
    for k in range(writing.repeats):
        name = f"{writing.judge}_single" if k == 0 else f"{writing.judge}_single_{k + 1}"
        made[f"model_judgment/{name}.jsonl"] = json_lines(
            _judgment(found, model, writing.judge) for model in writing.models for found in writing.judgements(model, k)
        )
    return made


def _answer(answered: Answered, model: str) -> dict[str, object]:
    turns = list(answered.outputs)
    return {
        "question_id": number_or_text(answered.row.id),
        "answer_id": content_id([answered.row.id, model, turns]),
        "model_id": model,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": 0.0,
    }


def _judgment(found: Judgement, model: str, judge: str) -> dict[str, object]:
    return {
        "question_id": number_or_text(found.row.id),
        "model": model,
        "judge": [judge, found.ask.prompt],
        "user_prompt": found.text,
        "judgment": found.reply,
        "score": -1 if found.grade is None else found.grade,
        "turn": int(found.ask.name.removeprefix("turn_")),
        "tstamp": 0.0,
        "judge_model": found.judge,
    }


# ------------------------------------------------------------------------------------------------------------- suites

JUDGED = Judged(
    prompts=("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"),
    parser=MT_BENCH_RATING,
    asks=_asks,
    read=read_rating,
    value=_value,
    files=_files,
    told=_told,
)


def _suite(name: str, noise: NoiseKind | None = None) -> Suite:
    score = mean("score")
    return Suite(
        name=name,
        file="mt_bench",
        text=True,
        images="noise" if noise else "none",
        noise=noise,
        parser=MT_BENCH_RATING,
        measures=(
            score,
            mean("turn_1"),
            mean("turn_2"),
            *(within(score, category, category) for category in CATEGORIES),
            mean("n_words"),
        ),
        headline="score",
        scale=10.0,
        turns=None,
        roles={"questions": True, "references": True, "photos": False},
        read=read_mt_bench,
        judged=JUDGED,
    )


MT_BENCH = _suite("mt_bench")
NOISY = (
    _suite("mt_bench_noisy_image", "gaussian"),
    _suite("mt_bench_blank_image", "blank"),
    _suite("mt_bench_photo", "photo"),
    _suite("mt_bench_corrupted_photo", "corrupted"),
)
"""The same questions behind a picture that has nothing to do with them (Multi-Modal Preference Alignment, 4.3)."""
