"""OODCV-VQA and Sketchy-VQA, the two sets of unusual pictures in Unicorn (arXiv:2311.16101).

    oodcv_vqa    questions oodcv-vqa.json [{"image":"…","question":"…","text_answer":"2","situation":"weather",…}]
                 answers   {"<image>":{"prediction":"Two.","answer":"2","situation":"weather"}}, or JSONL with questions
    sketchy_vqa  questions sketchy-vqa.json [{"image":"…","question":"…","answer":"Yes"}]
                 answers   [{"answer":"Yes, it is.","label":"Yes","image_path":"…"}], or JSONL with questions

Their own answer files hold the truth, so that questions need not be given. Readings: `strict` takes a number as a digit
or a word, yes and no as whole words, and what names none, or several, has no score; `official` is Unicorn's: OODCV-VQA
looks for the letters of the right answer anywhere ("none" holds one), all else is wrong; Sketchy-VQA looks for no and
not, then for yes, between blanks. The sets `oodcv-counterfactual` and `sketchy-challenging` have the same layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from align.benchmarks.files import Line, once
from align.benchmarks.measures import Measure, Outcome, Value, mean, ratio, within
from align.benchmarks.published import BY_WORD, Source, answers_of, bare, gathered_rows, numbered, row_of, sheet_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.scoring import normal
from align.benchmarks.sheet import Files, Scorer, Sheet
from align.benchmarks.suite import Score, Suite
from annotate.errors import UserError

COUNT_OR_YES_NO = "count-or-yes-no-words/1"
OODCV_OFFICIAL = "count-or-yes-no-letters/1"
YES_NO_WORDS = "yes-no-words/1"
SKETCHY_OFFICIAL = "yes-no-between-blanks/1"
SITUATIONS = ("iid", "occlusion", "context", "pose", "shape", "texture", "weather")

_WORDS = {
    "yes": "yes", "yeah": "yes", "no": "no", "nope": "no", "none": "0", "zero": "0", "one": "1", "single": "1",
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10",
}  # fmt: skip
_OFFICIAL = {
    "yes": ("yes", "Yes", "yeah", "Yeah"), "no": ("no", "No", "nope", "Nope"), "0": ("none", "no", "zero"),
    "1": ("one", "single", "1"), **{str(n): (word, str(n)) for n, word in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 2)},
}  # fmt: skip
"""Right answer -> what Unicorn's evaluation looks for in a prediction."""


def score_oodcv(text: str, truth: str, parser: str = COUNT_OR_YES_NO) -> Score:
    """`accuracy`; `truth` is yes, no or a number."""
    truth = normal(truth)
    if not text.strip():
        return Score(value={}, state="unparsed")
    if parser == OODCV_OFFICIAL:
        return Score(value={"accuracy": float(any(word in text for word in _OFFICIAL.get(truth, (truth,))))})
    asks_yes_no = truth in ("yes", "no")
    named = {_WORDS.get(word, word) for word in normal(text).split()}
    said = named & {"yes", "no"} if asks_yes_no else {word for word in named if word.isdigit()}
    if not asks_yes_no and not said and named & {"no"}:  # there are no dogs
        said = {"0"}
    return Score(value={"accuracy": float(said == {truth})}) if len(said) == 1 else Score(value={}, state="unparsed")


def score_sketchy(text: str, truth: str, parser: str = YES_NO_WORDS) -> Score:
    """`accuracy`, and `yes` and `truth` for F1."""
    if parser == SKETCHY_OFFICIAL:
        words = set(text.replace(",", "").split(" "))
        yes = False if words & {"No", "not", "no"} else True if words & {"Yes", "yes", "yeah"} else None
    else:
        named = set(normal(text).split())
        no, yeah = bool(named & {"no", "not", "nope"}), bool(named & {"yes", "yeah"})
        yes = None if no == yeah else yeah
    if yes is None:
        return Score(value={}, state="unparsed")
    right = normal(truth) == "yes"
    return Score(value={"accuracy": float(yes == right), "yes": float(yes), "truth": float(right)})


def _f1(v: Value) -> float:
    return 2 * v["yes"] * v["truth"]


OODCV_MEASURES: tuple[Measure, ...] = (
    mean("accuracy"),
    *(within(mean("accuracy"), kind) for kind in ("yes_no", "number")),
)
SKETCHY_MEASURES: tuple[Measure, ...] = (
    mean("accuracy"),
    ratio("f1", _f1, lambda v: v["yes"] + v["truth"]),
    ratio("precision", lambda v: v["yes"] * v["truth"], lambda v: v["yes"]),
    ratio("recall", lambda v: v["yes"] * v["truth"], lambda v: v["truth"]),
    mean("yes_ratio", "yes"),
)


# ----------------------------------------------------------------------------------------------------- asked of a model


def read_unicorn(name: str, source: Source) -> list[Row]:
    """The questions of one of the two sets."""
    lines = numbered(source.table(), "id", "question_id", "index")
    return gathered_rows(lines, lambda line: _row(name, source, line))


def _row(name: str, source: Source, line: Line) -> Row:
    text, truth = bare(line.text("question")) + BY_WORD, _truth(line)
    yes_no = truth in ("yes", "no")
    return row_of(
        suite=name,
        id=line.key("id"),
        text=text,
        image=source.image(line.get("image", "image_path"), line),
        question=Question(text=text, kind="yes_no" if yes_no else "number", answer=truth, accepted={"word": truth}),
        category=("yes_no" if yes_no else "number") if name == "oodcv_vqa" else "",
    )


def _truth(line: Line) -> str:
    """Yes, no or a number; `answer` of oodcv-vqa.json is the letter of an option, so its text goes first."""
    truth = normal(str(line.get("text_answer", "label", "answer")))
    if truth not in _OFFICIAL:
        raise line.fault(f"`text_answer`, `label` or `answer`: expected yes, no or a number, found {truth!r}")
    return truth


def _suite(name: str, parser: str, measures: tuple[Measure, ...], score: Callable[[str, str], Score]) -> Suite:
    return Suite(
        name=name,
        file=name,
        text=False,
        parser=parser,
        score=lambda row, outputs: score(outputs[0], row.questions[0].answer),
        measures=measures,
        headline="accuracy",
        read=partial(read_unicorn, name),
        roles={"questions": True, "images": True},
    )


OODCV_VQA = _suite("oodcv_vqa", COUNT_OR_YES_NO, OODCV_MEASURES, score_oodcv)
SKETCHY_VQA = _suite("sketchy_vqa", YES_NO_WORDS, SKETCHY_MEASURES, score_sketchy)


# ------------------------------------------------------------------------------------------------------- `align score`


def _sheets(suite: Suite, official: str, score: Callable[[str, str, str], Score], files: Files) -> list[Sheet]:
    parser = {"strict": suite.parser, "official": official}[files.parser or "strict"]
    if files.questions:
        reading = _suite(suite.name, parser, suite.measures, lambda text, truth: score(text, truth, parser))
        return [sheet_of(reading, files)]
    outcomes = _alone(once(answers_of(files.answers), "id").values(), suite.name, parser, score)
    unread = sum(o.state == "unparsed" for o in outcomes)
    warnings = (f"{unread} of {len(outcomes)} answers cannot be read: they have no score",) if unread else ()
    return [Sheet(outcomes=outcomes, measures=suite.measures, headline="accuracy", warnings=warnings)]


def _alone(lines: Iterable[Line], name: str, parser: str, score: Callable[[str, str, str], Score]) -> Sequence[Outcome]:
    """Unicorn's own answer files: prediction and answer, or answer and label."""
    said, right = ("prediction", "answer") if name == "oodcv_vqa" else ("answer", "label")
    outcomes: list[Outcome] = []
    faults: list[str] = []
    for line in lines:
        try:
            if right not in line.fields:
                raise line.fault(f"no field `{right}`, which holds the truth; give the questions (--questions JSON)")
            truth = _truth(Line(line.path, line.number, {"label": line.fields[right]}))
            found = score(line.text(said), truth, parser)
        except UserError as error:
            faults += error.faults
            continue
        key = line.key("id")
        category = ("yes_no" if truth in ("yes", "no") else "number") if name == "oodcv_vqa" else ""
        outcomes.append(Outcome(id=key, value=found.value, state=found.state, cluster=key, category=category))
    if faults:
        raise UserError(*faults)
    return outcomes


OODCV_SCORER = Scorer(
    name="oodcv_vqa",
    read=partial(_sheets, OODCV_VQA, OODCV_OFFICIAL, score_oodcv),
    needs=("answers",),
    takes=("questions",),
    parsers=("strict", "official"),
    help="--answers JSON by image (prediction, answer, situation), or JSONL with --questions oodcv-vqa.json",
)
SKETCHY_SCORER = Scorer(
    name="sketchy_vqa",
    read=partial(_sheets, SKETCHY_VQA, SKETCHY_OFFICIAL, score_sketchy),
    needs=("answers",),
    takes=("questions",),
    parsers=("strict", "official"),
    help="--answers JSON (answer, label, image_path), or JSONL with --questions sketchy-vqa.json",
)
