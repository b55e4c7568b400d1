r"""RealWorldQA (xAI, 2024): photographs from cars and elsewhere; options, yes or no, or a word or number.

    questions    annotations.jsonl {"image":"0.webp","question":"Which …?\nA. …\nB. …\nPlease answer directly with
                 only the letter …","answer":"C"}
    hub          xai-org/RealworldQA: image, question, answer

An answer is read by what the truth is: a letter of the options in the question, yes or no by the first word, else
the same words. MLAN (section C.2) takes question, options and instruction apart and puts them together anew:
`realworldqa_retemplated` asks as other multiple choices are asked here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from align.benchmarks.files import Line
from align.benchmarks.letters import LETTER, LETTERS, read_letter
from align.benchmarks.measures import mean
from align.benchmarks.published import BY_WORD, Source, bare, choice_text, gathered_rows, numbered, row_of, scorer_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.scoring import normal, read_yes_no
from align.benchmarks.suite import Score, Suite

BY_TRUTH = f"letter-or-yes-no-or-exact/1 ({LETTER})"
_OPTION = re.compile(r"^\s*\(?([A-F])[.)]\s*(.+?)\s*$")


def taken_apart(question: str) -> tuple[str, list[str], str]:
    """The question itself, its options (in the order of their letters), and the instruction behind them."""
    lines = bare(question).splitlines()
    at = [i for i, line in enumerate(lines) if _OPTION.match(line)]
    options = [found[2] for i in at if (found := _OPTION.match(lines[i]))]
    letters = "".join(found[1] for i in at if (found := _OPTION.match(lines[i])))
    if len(at) < 2 or letters != LETTERS[: len(at)] or at != list(range(at[0], at[0] + len(at))):
        stem = [line for line in lines if not line.strip().startswith("Please answer")]
        return "\n".join(stem).strip(), [], "\n".join(line for line in lines if line not in stem)
    return "\n".join(lines[: at[0]]).strip(), options, "\n".join(lines[at[-1] + 1 :]).strip()


def score_by_truth(row: Row, outputs: Sequence[str]) -> Score:
    """See the module's docstring; what cannot be read so, and an empty answer, has no score."""
    question = row.questions[0]
    options, truth = (question.truth or {}).get("options", []), question.answer
    text = outputs[0].strip()
    right: bool | None
    if options:
        said = read_letter(text, options)
        right = None if said is None else LETTERS[said] == truth.strip().upper()
    elif normal(truth) in ("yes", "no"):
        yes = read_yes_no(text)
        right = None if yes is None else yes == (normal(truth) == "yes")
    else:
        right = normal(text) == normal(truth) if text else None
    return Score(value={}, state="unparsed") if right is None else Score(value={"accuracy": float(right)})


def read_realworldqa(source: Source) -> list[Row]:
    """The questions as published."""
    return _read(source, "realworldqa")


def read_retemplated(source: Source) -> list[Row]:
    """The questions put together anew."""
    return _read(source, "realworldqa_retemplated")


def _read(source: Source, suite: str) -> list[Row]:
    lines = numbered(source.table(), "id", "question_id", "index")
    return gathered_rows(lines, lambda line: _row(source, line, suite))


def _row(source: Source, line: Line, suite: str) -> Row:
    asked, truth = bare(line.text("question")), line.text("answer").strip()
    stem, options, _ = taken_apart(asked)
    lettered = options if truth.upper() in LETTERS[: len(options)] and len(truth) == 1 else []
    if suite != "realworldqa":
        asked = choice_text(stem, lettered) if lettered else stem + BY_WORD
    question = Question(
        text=asked, kind="choice" if lettered else "open", answer=truth, accepted={"word": truth},
        truth={"options": lettered},
    )  # fmt: skip
    image = source.image(line.get("image"), line)
    return row_of(suite=suite, id=line.key("id"), text=asked, image=image, question=question)


REALWORLDQA = Suite(
    name="realworldqa",
    file="realworldqa",
    text=False,
    parser=BY_TRUTH,
    score=score_by_truth,
    measures=(mean("accuracy"),),
    headline="accuracy",
    read=read_realworldqa,
    roles={"questions": True, "images": True},
)
REALWORLDQA_RETEMPLATED = replace(
    REALWORLDQA, name="realworldqa_retemplated", file="realworldqa_retemplated", read=read_retemplated
)
REALWORLDQA_SCORER = scorer_of(
    REALWORLDQA, "--answers JSONL (question_id or image, text) --questions JSONL (image, question, answer)"
)
