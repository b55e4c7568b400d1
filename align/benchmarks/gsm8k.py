"""GSM8K (arXiv:2110.14168): recorded solutions, right where their final number is.

    plain       {"question":"…","answer":"… #### 18","prediction":"… #### 18"}    or completion, response, output
    lm-eval     {"doc_id":0,"doc":{"question":"…","answer":"…"},"resps":[["…"]],"filter":"strict-match",…}
    GSM8K's     {"question":"…","ground_truth":"… A: 18","6b_finetuning":{"solution":"… A: 18"},…}    a sheet per model
    labels      {"question":"…","answer":"… #### 18"}    test.jsonl; needed where the answers hold no truth

`accuracy` takes the last number of a solution (lm-eval's flexible reading), `accuracy_strict` the one behind `####` (or
on a last line `A: 18`), and counts a solution without one as wrong, as published; `has_form` is the share that has one.
A solution without any number has no score. Numbers are compared as numbers: 1800,
1,800 and $1,800.00 are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from align.benchmarks.files import Line, is_missing, number, read_table
from align.benchmarks.measures import Outcome, mean
from align.benchmarks.sheet import Files, Scorer, Sheet
from align.benchmarks.suite import Score
from annotate.errors import UserError

LAST_NUMBER = "last-number/1"
_NUMBER = re.compile(r"(?<![\d.)])-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)|\d[\d,]*(?:\.\d+)?")
_FINAL = re.compile(r"####\s*(-?\$?[\d.,]*\d)")
_LAST_LINE = re.compile(r"\s*A:\s*(-?\$?[\d.,]*\d)\s*\.?\s*")
_PREDICTIONS = ("prediction", "completion", "response", "output", "solution", "text")
_IDS = ("id", "question_id", "doc_id", "idx")


def final_number(text: str) -> Decimal | None:
    """What stands behind the (first) `####`, or on a last line `A: …`."""
    text = text.replace("\N{MINUS SIGN}", "-")
    lines = text.strip().splitlines() or [""]
    found = _FINAL.search(text) or _LAST_LINE.fullmatch(lines[-1])
    return _number(found[1]) if found else None


def last_number(text: str) -> Decimal | None:
    """The last number of the text, whatever stands around it."""
    found: list[str] = _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    return _number(found[-1]) if found else None


def score_solution(text: str, truth: Decimal) -> Score:
    """See the module's docstring."""
    last, final = last_number(text), final_number(text)
    if last is None:
        return Score(value={}, state="unparsed")
    right = {"accuracy": float(last == truth), "accuracy_strict": float(final == truth)}
    return Score(value={**right, "has_form": float(final is not None)})


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace("$", ""))
    except InvalidOperation:  # 1.2.3
        return None


MEASURES = tuple(map(mean, ("accuracy", "accuracy_strict", "has_form")))


# ------------------------------------------------------------------------------------------------------- `align score`


def read_gsm8k(files: Files) -> list[Sheet]:
    """One sheet, or one per model where a file holds several models' solutions."""
    answers = [one for path in files.answers for line in read_table(path) for one in _solutions(line)]
    truths = _truths(files.labels)
    faults: list[str] = []
    said = _by_model(answers, faults)
    sheets = [_sheet(model, solutions, truths, bool(files.labels), faults) for model, solutions in said.items()]
    if not said:
        faults.append(f"{' '.join(map(str, files.answers))}: no solutions in it")
    if faults:
        raise UserError(*dict.fromkeys(faults))
    return sheets


class _Solution:
    """One line of a file of answers, in whichever layout: what was asked, what was said, what is right if it says."""

    def __init__(self, line: Line, *, model: str, text: Any, gold: Any, rule: str = "") -> None:
        self.line, self.model, self.gold, self.rule = line, model, gold, rule
        if is_missing(text):
            text = None
        elif not isinstance(text, str):
            raise line.fault(f"a solution is text, found {text!r:.60}")
        self.text: str | None = text
        self.key = _key(line)


def _solutions(line: Line) -> Iterator[_Solution]:
    fields = line.fields
    if isinstance(doc := fields.get("doc"), dict):
        inner = Line(line.path, line.number, {**doc, "doc_id": fields.get("doc_id", "")})
        said = line.get("resps", "filtered_resps")
        while isinstance(said, list) and said:
            said = said[0]
        rule = str(fields.get("filter", ""))
        yield _Solution(inner, model="", text=said or "", gold=inner.get("answer"), rule=rule)
    elif "ground_truth" in fields:
        models = {name: given for name, given in fields.items() if isinstance(given, dict) and "solution" in given}
        if not models:
            raise line.fault("`ground_truth` stands beside no model's {`solution`: …}")
        for model, given in models.items():
            yield _Solution(line, model=model, text=given["solution"], gold=line.text("ground_truth"))
    else:
        yield _Solution(line, model="", text=line.get(*_PREDICTIONS), gold=fields.get("answer"))


def _key(line: Line) -> str:
    """What answers and labels are joined on: the question, or an id where there is none."""
    if "question" in line.fields:
        return " ".join(line.text("question").split())
    return line.key("question", *_IDS)


def _truths(paths: Iterable[Path]) -> dict[str, tuple[Decimal, Line]]:
    truths: dict[str, tuple[Decimal, Line]] = {}
    faults = []
    for line in (line for path in paths for line in read_table(path)):
        key = _key(line)
        if key in truths:
            faults.append(f"{line.where}: the same question as in line {truths[key][1].number}")
        truth = _truth(line.get("answer"))
        if truth is None:
            faults.append(f"{line.where}: `answer`: no number behind ####")
        else:
            truths[key] = (truth, line)
    if faults:
        raise UserError(*faults)
    return truths


def _truth(gold: Any) -> Decimal | None:
    """Of a worked solution the number behind its mark; a bare number is one."""
    if not isinstance(gold, str):
        return None if number(gold) is None else Decimal(str(gold))
    found = final_number(gold)
    return found if found is not None else _number(gold.strip()) if _NUMBER.fullmatch(gold.strip()) else None


def _by_model(answers: Iterable[_Solution], faults: list[str]) -> dict[str, dict[str, _Solution]]:
    """Model -> question -> solution. lm-eval writes a line per filter of one answer: they are one."""
    found: dict[str, dict[str, _Solution]] = {}
    filters: dict[tuple[str, str], set[str]] = {}
    for one in answers:
        mine = found.setdefault(one.model, {})
        before, seen = mine.setdefault(one.key, one), filters.setdefault((one.model, one.key), set())
        if before is not one and (one.rule in seen or before.text != one.text):
            faults.append(f"{one.line.where}: answers the same question as line {before.line.number}")
        seen.add(one.rule)
    return found


def _sheet(
    model: str,
    solutions: dict[str, _Solution],
    truths: dict[str, tuple[Decimal, Line]],
    labelled: bool,
    faults: list[str],
) -> Sheet:
    outcomes = []
    for key, one in solutions.items():
        own = _truth(one.gold)
        known = truths[key][0] if key in truths else None
        if labelled and known is None:
            faults.append(f"{one.line.where}: answers a question that the labels do not have")
        elif known is None and own is None:
            faults.append(f"{one.line.where}: `answer`: no number behind ####; give the truth with --labels test.jsonl")
        elif known is not None and own is not None and known != own:
            faults.append(f"{one.line.where}: its own truth is {own}, {truths[key][1].where} says {known}")
        else:
            truth = known if known is not None else own
            assert truth is not None
            score = score_solution(one.text or "", truth)
            outcomes.append(Outcome(id=key, value=score.value, state=score.state))
    outcomes += [Outcome(id=key, value={}, state="unanswered") for key in truths if key not in solutions]
    return Sheet(outcomes=outcomes, measures=MEASURES, headline="accuracy", name=model)


GSM8K_SCORER = Scorer(
    name="gsm8k",
    read=read_gsm8k,
    needs=("answers",),
    takes=("labels",),
    help="--answers JSONL (question, answer, prediction; or lm-eval's samples) [--labels test.jsonl]",
)
