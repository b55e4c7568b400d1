r"""MMBench (arXiv:2307.06281): multiple choice with each question asked as often as it has options, in turned order.

    index  question           A    B    C    D  answer  prediction  category  l2-category
    7      What colour is it? red  blue         B       B. blue     colour    coarse perception
    1000007  the same         blue red          A       A           …

Row `index + k * 1,000,000` is pass k of question `index`. Circular evaluation, the headline: a question is right only
if every pass is; `vanilla_accuracy` looks at the first pass alone. The submission (.xlsx or .tsv) may lack the answers;
then the benchmark's own TSV is given with --labels, and passes that it has and the submission lacks are failures.
Letters are read by rule, not by a language model as on the leaderboard: what names no option has no score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from align.benchmarks.files import Line, once, read_table
from align.benchmarks.letters import LETTER, LETTERS, read_letter
from align.benchmarks.measures import Measure, Outcome, mean
from align.benchmarks.published import Source, choice_row, gathered_rows, needs_choice, score_letter
from align.benchmarks.rows import Row
from align.benchmarks.sheet import Files, Scorer, Sheet
from align.benchmarks.suite import Score, Suite
from annotate.errors import RecordError, UserError

PASS = 1_000_000
_TOPICS = ("l2-category", "L2-category", "category")

MEASURES = (mean("accuracy"), mean("vanilla_accuracy"))


# ---------------------------------------------------------------------------------------------- what an answer is worth


def score_pass(text: str, options: Sequence[str], truth: str, parser: str = LETTER) -> Score:
    """1 if the text names the right option of one pass."""
    said = read_letter(text, options, parser)
    if said is None:
        return Score(value={}, state="unparsed")
    return Score(value={"accuracy": float(LETTERS[said] == truth)})


def pool_passes(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome per question: right if all its passes are. One pass without a score leaves the question without.

    A group is `question/passes`; a pass that is not among the outcomes was not answered.
    """
    questions: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        questions[outcome.group].append(outcome)
    pooled = []
    for group, passes in questions.items():
        first = min(passes, key=lambda o: int(o.id))
        failed = [o for o in passes if o.state != "ok"]
        if failed:
            pooled.append(replace(failed[0], id=group))
        elif len(passes) < int(group.partition("/")[2] or len(passes)):
            pooled.append(replace(first, id=group, state="unanswered", value={}))
        else:
            right = min(o.value["accuracy"] for o in passes)
            values = {"accuracy": right, "vanilla_accuracy": first.value["accuracy"]}
            pooled.append(replace(first, id=group, value=values))
    return pooled


def measures_of(categories: Iterable[str]) -> tuple[Measure, ...]:
    """Circular accuracy and vanilla accuracy, then circular accuracy of each category."""
    named = dict.fromkeys(c for c in categories if c)
    return (*MEASURES, *(replace(mean("accuracy"), name=f"accuracy_{c}", only=_in(c)) for c in named))


def _in(category: str) -> Any:
    return lambda outcome: outcome.category == category


def options_of(row: Line) -> list[str]:
    """The options that this row has; later columns are empty."""
    options: list[str] = []
    for letter in "ABCDE":
        text = cell(row.fields.get(letter))
        if text.lower() in ("", "nan", "none"):
            break
        options.append(text)
    return options


def cell(value: Any) -> str:
    """What stands in a cell; workbooks hold numbers where a text looks like one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def question_of(index: str) -> str:
    """The question that a row is a pass of."""
    return str(int(index) % PASS)


# ------------------------------------------------------------------------------------------------------- `align score`


def read_mmbench(files: Files) -> list[Sheet]:
    """One sheet of all questions. Raises `UserError` with every row that does not fit."""
    said = once((line for path in files.answers for line in read_table(path)), "index", "question_id")
    known = once((line for path in (*files.labels, *files.questions) for line in read_table(path)), "index")
    asked = known or said
    _columns(said, known, files)
    strays = [line for index, line in said.items() if index not in asked]
    faults = [f"{line.where}: its index is not in the labels; are both of one version?" for line in strays]
    outcomes = []
    passes = passes_of(asked, exact=bool(known))
    for index, row in asked.items():
        answer = said.get(index)
        try:
            outcomes.append(_outcome(index, row, answer, passes))
            if known and answer:
                _same(row, answer)
        except RecordError as error:
            faults.append(str(error))
    if not asked:
        faults.append(f"{' '.join(map(str, files.answers))}: no rows in it")
    if faults:
        raise UserError(*faults)
    pooled = pool_passes(outcomes)
    return [
        Sheet(
            outcomes=pooled,
            measures=measures_of(o.category for o in pooled),
            headline="accuracy",
            warnings=tuple(_warnings(pooled, outcomes)),
        )
    ]


def _columns(said: Mapping[str, Line], known: Mapping[str, Line], files: Files) -> None:
    """Refuses a table that lacks a whole column, in one line and not in one for each row."""
    columns = list(dict.fromkeys(name for line in said.values() for name in line.fields))
    if said and "prediction" not in columns and "text" not in columns:
        raise UserError(f"{files.answers[0]}: no column `prediction`; it has {', '.join(columns)}")
    if said and not known and "answer" not in columns:
        raise UserError(f"{files.answers[0]}: no column `answer`: give the benchmark's TSV with --labels")


def _outcome(index: str, row: Line, answer: Line | None, passes: Mapping[str, int]) -> Outcome:
    options, truth = checked_choice(index, row)
    question = question_of(index)
    about = {"id": index, "cluster": question, "group": f"{question}/{passes[question]}", "category": _category(row)}
    if answer is None:
        return Outcome(**about, value={}, state="unanswered")
    score = score_pass(cell(answer.get("prediction", "text")), options, truth)
    return Outcome(**about, value=score.value, state=score.state)


def checked_choice(index: str, row: Line) -> tuple[list[str], str]:
    """Options and the right letter of a row. Raises `RecordError` naming what is wrong with them."""
    if not index.isdigit():
        raise row.fault(f"`index`: expected a whole number, found {index!r}")
    options, truth = options_of(row), cell(row.get("answer")).upper()
    if len(options) < 2:
        raise row.fault(f"expected at least two options in the columns A, B, …; it has {', '.join(row.fields)}")
    if len(truth) != 1 or truth not in LETTERS[: len(options)]:
        raise row.fault(
            f"`answer`: expected one of {', '.join(LETTERS[: len(options)])}, found {truth!r}; a submission without "
            "answers needs the benchmark's TSV (--labels)"
        )
    return options, truth


def _category(row: Line) -> str:
    return next((text for name in _TOPICS if (text := cell(row.fields.get(name)))), "").replace(" ", "_")


def _same(row: Line, answer: Line) -> None:
    """Refuses answers to other questions: a row that differs from the benchmark's in what both hold."""
    for name in ("question", *"ABCD", "answer"):
        if name in answer.fields and name in row.fields:
            mine, theirs = cell(answer.fields[name]), cell(row.fields[name])
            if mine != theirs and {mine.lower(), theirs.lower()} - {"", "nan", "none"}:
                raise answer.fault(f"`{name}` differs from {row.where}; are both of one version of MMBench?")


def passes_of(asked: Mapping[str, Line], *, exact: bool) -> dict[str, int]:
    """Question -> how often it is to be asked: as often as it stands there.

    Where that may be a part (not `exact`), as often as it has options, if any question is asked more than once.
    """
    there: dict[str, list[Line]] = defaultdict(list)
    for index, row in asked.items():
        there[question_of(index) if index.isdigit() else index].append(row)
    circular = any(index.isdigit() and int(index) >= PASS for index in asked) and not exact
    return {q: max(len(rows), len(options_of(rows[0])) if circular else 0) for q, rows in there.items()}


def _warnings(pooled: Sequence[Outcome], outcomes: Sequence[Outcome]) -> list[str]:
    said = []
    if all(o.group.endswith("/1") for o in pooled):
        said.append("each question was asked once, so accuracy is not circular: it is vanilla accuracy")
    unread = sum(o.state == "unparsed" for o in outcomes)
    wanted = sum(int(o.group.partition("/")[2]) for o in pooled)
    missing = wanted - len(outcomes) + sum(o.state == "unanswered" for o in outcomes)
    if unread or missing:
        said.append(
            f"of {wanted:,} passes {unread:,} name no option, or two, and {missing:,} are missing: their "
            f"{sum(o.state != 'ok' for o in pooled):,} questions have no score"
        )
    return said


# ----------------------------------------------------------------------------------------------------- asked of a model


def read_mmbench_rows(source: Source) -> list[Row]:
    """All passes of the benchmark's TSV, or of a hub's data set in its columns."""
    lines = once(source.table(), "index")
    passes = passes_of(lines, exact=True)
    return gathered_rows(lines.values(), lambda line: _row(source, line, passes, lines))


def _row(source: Source, line: Line, passes: Mapping[str, int], lines: Mapping[str, Line]) -> Row:
    index = line.key("index")
    options, truth = checked_choice(index, line)
    image, hint = line.get("image"), cell(line.fields.get("hint"))
    if isinstance(image, str) and image.isdigit() and image in lines:  # the same picture as that row's
        image = lines[image].get("image")
    return choice_row(
        suite="mmbench",
        id=index,
        question=line.text("question"),
        hint="" if hint.lower() in ("nan", "none") else hint,
        options=options,
        answer=LETTERS.index(truth),
        image=source.image(image, line),
        category=_category(line),
        group=f"{question_of(index)}/{passes[question_of(index)]}",
    )


MMBENCH = Suite(
    name="mmbench",
    file="mmbench",
    text=False,
    parser=LETTER,
    score=score_letter,
    measures=MEASURES,
    measured=measures_of,
    headline="accuracy",
    pool=pool_passes,
    needs=lambda row: needs_choice(row) or ("" if row.group else "needs the question that it is a pass of as `group`"),
    read=read_mmbench_rows,
    roles={"questions": True, "images": False},
)
MMBENCH_SCORER = Scorer(
    name="mmbench",
    read=read_mmbench,
    needs=("answers",),
    takes=("labels", "questions"),
    help="--answers XLSX or TSV (index, question, A-D, answer, prediction) [--labels the benchmark's TSV]",
)
