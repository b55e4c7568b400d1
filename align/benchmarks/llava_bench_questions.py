"""LLaVA-Bench (in the wild) to be run (arXiv:2304.08485): a judge grades a reference answer and the model's together.

    files: {llava_bench: {questions: questions.jsonl, references: answers_gpt4.jsonl, context: context.jsonl,
                          images: images, rule: rule.json}}                                    the benchmark's own files

    {"question_id": 0, "image": "001.jpg", "category": "conv", "text": "What is …?"}               questions
    {"question_id": 0, "text": "The feature is …", "answer_id": "Tey…"}                            references
    {"id": 0, "image": "001.jpg", "caption": "An aerial view of …"}                                context
    {"llava_bench_conv": {"role": "Assistant", "prompt": "…"}, …}                                  rule; may be left out

The judge sees the description in place of the picture. The score is 100 times the sum of the model's grades over that
of the reference's. With `rule` the judge is given that file's instruction of the category, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from align.benchmarks.files import Line, load_json, once
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
from align.benchmarks.judge_replies import LLAVA_BENCH_PAIR, read_pair
from align.benchmarks.measures import Floats, mean, ratio, within
from align.benchmarks.published import Source, bare, row_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.suite import Suite
from annotate.errors import UserError
from annotate.records import content_id

CATEGORIES = ("conv", "detail", "complex")
PREFIX = "llava_bench_"


def read_llava_bench(source: Source) -> list[Row]:
    """The questions with picture, description, reference and rule. Raises `UserError` with every fault."""
    references = once(source.table("references"), "question_id")
    contexts = once(source.table("context"), "image")
    rules = _rules(source)
    faults: list[str] = []
    rows = []
    for key, line in once(source.table(), "question_id").items():
        try:
            rows.append(_row(source, key, line, references.get(key), contexts, rules))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)
    return rows


def _rules(source: Source) -> dict[str, str]:
    if "rule" not in source:
        return {}
    found = load_json(source["rule"])
    try:
        return {name: rule["prompt"] for name, rule in found.items()}
    except (AttributeError, KeyError, TypeError):
        raise UserError(f'{source["rule"]}: expected {{"llava_bench_conv": {{"role": …, "prompt": …}}, …}}') from None


def _row(
    source: Source,
    key: str,
    line: Line,
    reference: Line | None,
    contexts: Mapping[str, Line],
    rules: Mapping[str, str],
) -> Row:
    category = line.text("category").removeprefix(PREFIX)
    name = line.text("image")
    if reference is None:
        raise line.fault(f"question {key} has no reference answer; are the files of one benchmark?")
    if name not in contexts:
        raise line.fault(f"the context does not describe {name}; are the files of one benchmark?")
    if rules and PREFIX + category not in rules:
        raise line.fault(f"the rule has no {PREFIX + category}")
    said = contexts[name].get("caption")
    truth = {
        "context": "\n".join(map(str, said)) if isinstance(said, list) else str(said),
        "reference": reference.text("text"),
        "answer_id": str(reference.fields.get("answer_id", "")),
        "rule": rules.get(PREFIX + category, ""),
    }
    text = bare(line.text("text"))
    question = Question(text=text, kind=category, truth=truth)
    image = source.image(name, line)
    return row_of(suite="llava_bench", id=key, text=text, image=image, question=question, category=category)


# ------------------------------------------------------------------------------------------------------------ judging


def _asks(row: Row, outputs: Sequence[str]) -> list[Ask]:
    truth = row.questions[0].truth or {}
    texts = {"context": truth["context"], "question": row.questions[0].text, "rule": truth["rule"]}
    texts |= {"answer_a": truth["reference"], "answer_b": outputs[0]}
    return [Ask(name="review", prompt="llava_bench", texts=texts, system="" if truth["rule"] else None)]


def _value(row: Row, outputs: Sequence[str], grades: Mapping[str, Sequence[tuple[float, float]]]) -> Values:
    first, second = (mean_of([pair[i] for pair in grades["review"]]) for i in (0, 1))
    if not first:
        return {}  # nothing to compare with
    return {"score": 100 * second / first, "first": first, "second": second, "n_words": words_of(outputs)}


def _told(rows: Sequence[Row]) -> list[str]:
    ruled = sum(bool((row.questions[0].truth or {})["rule"]) for row in rows)
    return [f"the instruction of {ruled} questions is that of its own rule, and not ours"] if ruled else []


def _share(columns: Floats) -> float:
    first, second = np.nansum(columns, axis=0)
    return float(100 * second / first) if first else float("nan")


def _files(writing: Writing) -> dict[str, str]:
    """`answers/<model>.jsonl` and `reviews/<model>-eval<k>.jsonl`, a file for each run of the judge."""
    made = {}
    for model, answered in writing.models.items():
        made[f"answers/{model}.jsonl"] = json_lines(_answer(a, model) for a in answered)
        for k in range(writing.repeats):
            reviews = writing.judgements(model, k)
            made[f"reviews/{model}-eval{k + 1}.jsonl"] = json_lines(
                _review(found, model, i) for i, found in enumerate(reviews, 1)
            )
    return made


def _answer(answered: Answered, model: str) -> dict[str, object]:
    (text,) = answered.outputs
    return {
        "question_id": number_or_text(answered.row.id),
        "prompt": answered.row.questions[0].text,
        "text": text,
        "answer_id": content_id([answered.row.id, model, text]),
        "model_id": model,
        "metadata": {},
    }


def _review(found: Judgement, model: str, number: int) -> dict[str, object]:
    truth = found.row.questions[0].truth or {}
    return {
        "id": number,
        "question_id": number_or_text(found.row.id),
        "answer1_id": truth["answer_id"],
        "answer2_id": content_id([found.row.id, model, found.ask.texts["answer_b"]]),
        "category": PREFIX + found.row.category,
        "content": found.reply,
        "tuple": list(found.grade) if found.grade else [-1, -1],
        "judge_model": found.judge,
    }


_SCORE = ratio("score", lambda v: v["second"], lambda v: v["first"], times=100)

LLAVA_BENCH = Suite(
    name="llava_bench",
    file="llava_bench",
    text=False,
    parser=LLAVA_BENCH_PAIR,
    measures=(
        _SCORE,
        *(within(_SCORE, category, category) for category in CATEGORIES),
        mean("model_grade", "second"),
        mean("reference_grade", "first"),
        mean("n_words"),
    ),
    headline="score",
    scale=100.0,
    roles={"questions": True, "references": True, "context": True, "images": True, "rule": False},
    read=read_llava_bench,
    judged=Judged(
        prompts=("llava_bench",),
        parser=LLAVA_BENCH_PAIR,
        asks=_asks,
        read=read_pair,
        value=_value,
        files=_files,
        told=_told,
        runs=("first", "second"),
        run_value=_share,
    ),
)
