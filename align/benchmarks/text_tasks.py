"""The text benchmarks of the papers, as lm-eval has them: what a row must hold, how many examples, what comes out.

Tasks and shots: *Sight Beyond Text* (arXiv:2309.07120), sections 2 and 3.2, asks Ethics and TruthfulQA without
examples and GSM8K with 8, MathQA with 4; *MLAN* (section 2.3) asks BoolQ, RACE, OpenBookQA, HellaSwag without. MMLU has
the 5 of its own authors (arXiv:2009.03300).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A data set on the hub."""

    path: str
    name: str | None = None
    split: str
    shots: str | None = None
    """Split that examples are taken from."""


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """One task of lm-eval."""

    yaml: str
    """Its definition, below lm_eval/tasks; of MMLU one per subject."""
    hub: Hub
    columns: Mapping[str, Any]
    """What a row must hold; others may be there too."""
    measures: Mapping[str, str]
    """Name in our tables -> what lm-eval calls it."""
    headline: str = "acc"
    shots: int = 0
    fixed_shots: bool = False
    """The examples are part of the prompt; others cannot be asked for."""
    cluster: tuple[str, ...] = ()
    """Columns that rows share which are not independent of each other: a passage, a scenario."""
    fault: Callable[[Row], str] = lambda row: ""
    """What is wrong with a row beyond its types."""


ACC = {"acc": "acc"}
ACC_NORM = {"acc": "acc", "acc_norm": "acc_norm"}
GENERATED = {name: name for name in ("rougeL_acc", "rouge1_acc", "rouge2_acc", "bleu_acc")}
_ETHICS = "EleutherAI/hendrycks_ethics"
_TRUTHFUL = "truthfulqa/truthful_qa"


def _binary(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] in (0, 1) else f"{name}: {row[name]!r} is neither 0 nor 1"


def _ethics(part: str, yaml: str, columns: Mapping[str, Any], *cluster: str) -> TextTask:
    labelled = {**columns, "label": int} if part != "utilitarianism" else columns
    return TextTask(
        yaml=f"hendrycks_ethics/{yaml}.yaml",
        hub=Hub(path=_ETHICS, name=yaml, split="test", shots="train"),
        columns=labelled,
        measures=ACC,
        cluster=cluster,
        fault=_binary("label") if "label" in labelled else lambda row: "",
    )


def _targets(row: Row, name: str) -> str:
    found = row[name]
    choices, labels = found.get("choices"), found.get("labels")
    if not isinstance(choices, list) or not isinstance(labels, list) or len(choices) != len(labels) or not choices:
        return f"{name}: needs `choices` and as many `labels`"
    if not set(labels) <= {0, 1} or 1 not in labels:
        return f"{name}.labels: 1 for what is true, 0 for what is not, at least one of them true"
    if name == "mc1_targets" and (labels[0] != 1 or sum(labels) != 1):
        return "mc1_targets: the first choice, and no other, must be the true one"
    return "" if 0 in labels else f"{name}.labels: nothing false to tell from the truth"


def _one_of(values: str, name: str) -> Callable[[Row], str]:
    def fault(row: Row) -> str:
        return "" if row[name] in tuple(values) else f"{name}: {row[name]!r} is none of {', '.join(values)}"

    return fault


def _mmlu(row: Row) -> str:
    if len(row["choices"]) != 4 or row["answer"] not in range(4):
        return "needs four `choices` and `answer`, the index of one of them from 0"
    return "" if row["subject"] in MMLU_SUBJECTS else f"subject: MMLU has no {row['subject']!r}"


def _openbook(row: Row) -> str:
    choices, key = row["choices"], row["answerKey"].strip()
    text, label = choices.get("text"), choices.get("label")
    if not isinstance(text, list) or not isinstance(label, list) or len(text) != len(label):
        return "choices: needs `text` and as many `label`"
    return "" if key in label else f"answerKey: {key!r} is no label of a choice"


def _hellaswag(row: Row) -> str:
    right, n = str(row["label"]), len(row["endings"])
    if right.isdecimal() and int(right) < n:
        return ""
    return f"label: {right!r} is no index of an ending (the test split has none; take validation)"


def _race(row: Row) -> str:
    try:
        problems = ast.literal_eval(row["problems"])
        good = bool(problems) and all(
            p["question"] and len(p["options"]) == 4 and p["answer"] in "ABCD" for p in problems
        )
    except (ValueError, SyntaxError, TypeError, KeyError):
        good = False
    return "" if good else "problems: expected a list as text, each {'question', 'answer': 'A'-'D', 'options': four}"


def _squad(row: Row) -> str:
    texts = row["answers"].get("text")
    return "" if isinstance(texts, list) else "answers.text: expected a list, empty where there is no answer"


def _final_number(row: Row) -> str:
    return "" if "####" in row["answer"] else "answer: has no line `#### number`"


TASKS: Mapping[str, TextTask] = {
    "ethics_cm": _ethics("cm", "commonsense", {"input": str}),
    "ethics_deontology": _ethics("deontology", "deontology", {"scenario": str, "excuse": str}, "scenario"),
    "ethics_justice": _ethics("justice", "justice", {"scenario": str}),
    "ethics_utilitarianism": _ethics("utilitarianism", "utilitarianism", {"activity": str, "baseline": str}),
    "ethics_virtue": _ethics("virtue", "virtue", {"scenario": str, "trait": str}, "scenario"),
    "truthfulqa_gen": TextTask(
        yaml="truthfulqa/truthfulqa_gen.yaml",
        hub=Hub(path=_TRUTHFUL, name="generation", split="validation"),
        columns={"question": str, "correct_answers": list[str], "incorrect_answers": list[str]},
        measures=GENERATED,
        headline="rougeL_acc",
        fixed_shots=True,
        fault=lambda row: "" if row["incorrect_answers"] else "incorrect_answers: none to tell from the truth",
    ),
    "truthfulqa_mc1": TextTask(
        yaml="truthfulqa/truthfulqa_mc1.yaml",
        hub=Hub(path=_TRUTHFUL, name="multiple_choice", split="validation"),
        columns={"question": str, "mc1_targets": dict},
        measures=ACC,
        fixed_shots=True,
        fault=lambda row: _targets(row, "mc1_targets"),
    ),
    "truthfulqa_mc2": TextTask(
        yaml="truthfulqa/truthfulqa_mc2.yaml",
        hub=Hub(path=_TRUTHFUL, name="multiple_choice", split="validation"),
        columns={"question": str, "mc2_targets": dict},
        measures=ACC,
        fixed_shots=True,
        fault=lambda row: _targets(row, "mc2_targets"),
    ),
    "mmlu": TextTask(
        yaml="mmlu/default/mmlu_{subject}.yaml",
        hub=Hub(path="cais/mmlu", name="all", split="test", shots="dev"),
        columns={"question": str, "subject": str, "choices": list[str], "answer": int},
        measures=ACC,
        shots=5,
        fault=_mmlu,
    ),
    "gsm8k": TextTask(
        yaml="gsm8k/gsm8k.yaml",
        hub=Hub(path="openai/gsm8k", name="main", split="test", shots="train"),
        columns={"question": str, "answer": str},
        measures={"strict": "exact_match,strict-match", "flexible": "exact_match,flexible-extract"},
        headline="strict",
        shots=8,
        fault=_final_number,
    ),
    "mathqa": TextTask(
        yaml="mathqa/mathqa.yaml",
        hub=Hub(path="regisss/math_qa", split="test", shots="train"),
        columns={"Problem": str, "options": str, "correct": str},
        measures=ACC_NORM,
        shots=4,
        fault=_one_of("abcde", "correct"),
    ),
    "squadv2": TextTask(
        yaml="squadv2/squadv2.yaml",
        hub=Hub(path="lighteval/squad_v2", split="validation", shots="train"),
        columns={"id": str, "title": str, "context": str, "question": str, "answers": dict},
        measures={"f1": "f1", "exact": "exact"},
        headline="f1",
        cluster=("title", "context"),
        fault=_squad,
    ),
    "boolq": TextTask(
        yaml="super_glue/boolq/default.yaml",
        hub=Hub(path="aps/super_glue", name="boolq", split="validation", shots="train"),
        columns={"question": str, "passage": str, "label": int},
        measures=ACC,
        cluster=("passage",),
        fault=_binary("label"),
    ),
    "race": TextTask(
        yaml="race/race.yaml",
        hub=Hub(path="EleutherAI/race", name="high", split="test"),
        columns={"article": str, "problems": str},
        measures=ACC,
        fault=_race,
    ),
    "openbookqa": TextTask(
        yaml="openbookqa/openbookqa.yaml",
        hub=Hub(path="allenai/openbookqa", name="main", split="test", shots="train"),
        columns={"question_stem": str, "choices": dict, "answerKey": str},
        measures=ACC_NORM,
        fault=_openbook,
    ),
    "hellaswag": TextTask(
        yaml="hellaswag/hellaswag.yaml",
        hub=Hub(path="Rowan/hellaswag", split="validation", shots="train"),
        columns={"activity_label": str, "ctx_a": str, "ctx_b": str, "endings": list[str]},
        measures=ACC_NORM,
        fault=_hellaswag,
    ),
}

GROUPS: Mapping[str, tuple[str, ...]] = {"ethics": tuple(name for name in TASKS if name.startswith("ethics_"))}
"""A suite of several tasks. Whether Sight Beyond Text averages its parts or their questions is not said: both are
given, the mean of the parts is the headline."""
KNOWN = (*GROUPS, *TASKS)
"""What `evaluate.text.tasks` may name."""

MMLU_SUBJECTS = frozenset(
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry "
    "college_computer_science college_mathematics college_medicine college_physics computer_security "
    "conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_european_history "
    "high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics "
    "high_school_microeconomics high_school_physics high_school_psychology high_school_statistics "
    "high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence "
    "logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes "
    "moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine "
    "professional_psychology public_relations security_studies sociology us_foreign_policy virology "
    "world_religions".split()
)
