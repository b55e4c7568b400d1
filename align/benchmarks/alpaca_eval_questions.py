"""AlpacaEval to be run: which of two answers to an instruction a judge prefers, the baseline's or the model's.

    files: {alpaca_eval: {questions: alpaca_eval.json, references: text_davinci_003_outputs.json}}

    [{"instruction": "Name …", "output": "…", "generator": "text_davinci_003", "dataset": "helpful_base"}, …]

Both files have this layout; without `references` the baseline is what stands in `questions`. The judge is asked in both
orders. A preference that goes with the order (a *flip*) is half a win, as a tie is; the share of flips stands beside
the win rate, and so do both lengths and the win rate at equal length (`alpaca_eval_files.py` says how).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from align.benchmarks.alpaca_eval_files import fit_logistic
from align.benchmarks.files import Line
from align.benchmarks.judge_asks import Answered, Ask, Judged, Judgement, Values, Writing, mean_of, words_of
from align.benchmarks.judge_replies import MT_BENCH_VERDICT, read_verdict
from align.benchmarks.measures import Floats, Measure, mean
from align.benchmarks.published import Source, bare, row_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.suite import Suite
from annotate.errors import UserError

_WIN = {"as_first": {"first": 1.0, "tie": 0.5, "second": 0.0}, "as_second": {"first": 0.0, "tie": 0.5, "second": 1.0}}
"""By the place of the model's answer and the verdict: the model's share."""


def read_alpaca_eval(source: Source) -> list[Row]:
    """The instructions with the baseline's answers. Raises `UserError` with every fault."""
    baseline: dict[str, Line] = {}
    for line in source.table("references" if "references" in source else "questions"):
        baseline.setdefault(line.text("instruction"), line)
    faults: list[str] = []
    rows = []
    for number, line in enumerate(source.table()):
        try:
            rows.append(_row(str(number), line, baseline.get(line.text("instruction"))))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(*faults)
    return rows


def _row(key: str, line: Line, reference: Line | None) -> Row:
    if reference is None:
        raise line.fault("the references have no answer to this instruction; are both files of one benchmark?")
    text = bare(line.text("instruction"))
    if not text:
        raise line.fault("`instruction` is empty")
    truth = {"reference": reference.text("output"), "generator": str(reference.fields.get("generator", "reference"))}
    dataset = str(line.fields.get("dataset", ""))
    question = Question(text=text, kind=dataset, truth=truth)
    return row_of(suite="alpaca_eval", id=key, text=text, image=None, question=question, category=dataset)


# ------------------------------------------------------------------------------------------------------------ judging


def _asks(row: Row, outputs: Sequence[str]) -> list[Ask]:
    """Both orders."""
    truth, question = row.questions[0].truth or {}, row.questions[0].text
    pair = (outputs[0], truth["reference"])
    return [
        Ask(name=name, prompt="alpaca_eval", texts={"question": question, "answer_a": a, "answer_b": b})
        for name, (a, b) in (("as_first", pair), ("as_second", pair[::-1]))
    ]


def _value(row: Row, outputs: Sequence[str], grades: Mapping[str, Sequence[str]]) -> Values:
    first, second = (mean_of([_WIN[name][verdict] for verdict in grades[name]]) for name in _WIN)
    truth = row.questions[0].truth or {}
    return {
        "win_rate": 50 * (first + second),
        "flip": float((first - 0.5) * (second - 0.5) < 0),
        "n_words": words_of(outputs),
        "baseline_words": words_of([truth["reference"]]),
        "shorter": float(len(truth["reference"]) - len(outputs[0])),
    }


def _equal_length(table: Floats) -> float:
    """The win rate where both are equally long, in percent; columns: share won in percent, characters shorter."""
    sd = table[:, 1].std(ddof=1) if len(table) > 1 else 0.0
    features = np.stack([np.tanh(table[:, 1] / sd) if sd else np.zeros(len(table)), np.ones(len(table))], axis=1)
    model = fit_logistic(features, table[:, 0] / 100)[1]
    return float(50 * (1 + np.tanh(model / 2)))


# -------------------------------------------------------------------------------------------------------------- files


def _files(writing: Writing) -> dict[str, str]:
    """`<model>/model_outputs.json` and `<model>/annotations.json`, each further run of the judge in a file of its own.

    `preference` is 1 for the baseline, 2 for the model, the mean of both orders; null where the judge failed.
    """
    made = {}
    for model, answered in writing.models.items():
        made[f"{model}/model_outputs.json"] = _json([_output(a, model) for a in answered])
        for k in range(writing.repeats):
            name = "annotations" if k == 0 else f"annotations_{k + 1}"
            made[f"{model}/{name}.json"] = _json([_annotation(a, model, writing.judge, k) for a in answered])
    return made


def _output(answered: Answered, model: str) -> dict[str, object]:
    question = answered.row.questions[0]
    return {
        "instruction": question.text,
        "output": answered.outputs[0],
        "generator": model,
        "dataset": answered.row.category,
    }


def _annotation(answered: Answered, model: str, judge: str, repeat: int) -> dict[str, object]:
    question = answered.row.questions[0]
    truth = question.truth or {}
    found: dict[str, Judgement] = {one.ask.name: one for one in answered.judgements if one.repeat == repeat}
    shares = [_WIN[name][one.grade] for name, one in found.items() if one.grade is not None]
    return {
        "instruction": question.text,
        "output_1": truth["reference"],
        "generator_1": truth["generator"],
        "output_2": answered.outputs[0],
        "generator_2": model,
        "annotator": judge,
        "preference": 1 + mean_of(shares) if len(shares) == len(_WIN) else None,
        "dataset": answered.row.category,
        "raw_completion": {name: one.reply for name, one in found.items()},
        "judge_model": next((one.judge for one in found.values() if one.judge), ""),
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


ALPACA_EVAL = Suite(
    name="alpaca_eval",
    file="alpaca_eval",
    text=True,
    images="none",
    parser=MT_BENCH_VERDICT,
    measures=(
        mean("win_rate"),
        Measure(
            name="length_controlled_win_rate",
            columns=(lambda o: o.value["win_rate"], lambda o: o.value["shorter"]),
            statistic=_equal_length,
        ),
        mean("flips", "flip"),
        mean("n_words"),
        mean("baseline_words"),
    ),
    headline="win_rate",
    scale=100.0,
    roles={"questions": True, "references": False},
    read=read_alpaca_eval,
    judged=Judged(
        prompts=("alpaca_eval",), parser=MT_BENCH_VERDICT, asks=_asks, read=read_verdict, value=_value, files=_files
    ),
)
