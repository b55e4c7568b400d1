r"""MT-Bench as FastChat's judge writes it (arXiv:2306.05685): one grade from 1 to 10 per question and turn.

    judgments   {"question_id":81,"model":"m","judge":["gpt-4","single-v1"],"user_prompt":"[Instruction]\n…",
                 "judgment":"… Rating: [[8]]","score":8,"turn":1,"tstamp":1711370016.7}
    questions   {"question_id":81,"category":"writing","turns":["Compose …","Rewrite …"]}
    answers     {"question_id":81,"model_id":"m","choices":[{"index":0,"turns":["Aloha! …","Alas …"]}]}

The grade is read out of `judgment` again. Without questions the categories are those of the known numbers 81 to 160.
What was judged stands in `user_prompt`: where a model's name covers two sets of answers, the prompts differ, and the
sets are reported apart; the same prompt again is the judge asked again, and the last grade counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from align.benchmarks.files import Line, is_missing, number, once, read_table
from align.benchmarks.judge_replies import read_rating
from align.benchmarks.judged import CHARS, last_of, length_measures, over_runs, said
from align.benchmarks.measures import Measure, Outcome, mean, within
from align.benchmarks.sheet import Files, Scorer, Sheet
from annotate.errors import UserError

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
"""Ten questions each, from 81 on."""
FIRST, LAST = 81, 160
_ENDS = (
    ("### Assistant A:\n", "<|The End of Assistant A's Conversation"),
    ("[The Start of Assistant's Answer]\n", "[The End of Assistant's Answer]"),
)
"""What stands around the judged answer in the prompts of FastChat's judge, two turns and one."""

Key = tuple[str, int]
"""Question and turn."""


@dataclass(frozen=True)
class _Judged:
    line: Line
    run: int
    """The file, from 1: a prompt judged again in another file is another run of the judge."""
    order: float
    who: tuple[str, str]
    """Model and judge."""
    key: Key
    prompt: str
    """Hash of what the judge was shown."""
    grade: float | None
    differs: bool
    """Whether the stored score is not what the reply says."""
    answer: str | None


@dataclass(frozen=True)
class _Expected:
    """What must have been judged, and how long the answers are, as far as files say."""

    categories: Mapping[str, str]
    turns: Mapping[str, int]
    answers: Mapping[tuple[str, str], Sequence[str]]
    """Model and question -> its turns."""


def read_mt_bench(files: Files) -> list[Sheet]:
    """One sheet per model, judge and set of answers."""
    judged = [row for n, path in enumerate(files.judgments, 1) for row in _read(read_table(path), n)]
    if not judged:
        raise UserError(f"{' '.join(map(str, files.judgments))}: no judgment in it; is it the right file?")
    expected = _expected(files)
    if expected.turns:
        strays = [j.line for j in judged if j.key[0] not in expected.turns]
        if strays:
            raise UserError(
                *(f"{s.where}: judges a question that is not asked; is it of one benchmark?" for s in strays)
            )
    models = {model for model, _ in expected.answers}
    if models and not models & {j.who[0] for j in judged}:
        raise UserError(
            f"{judged[0].line.path}: judges {judged[0].who[0]}; --answers are of {', '.join(sorted(models))}"
        )
    kinds: dict[tuple[str, str], list[_Judged]] = {}
    for row in judged:
        kinds.setdefault(row.who, []).append(row)
    sheets = []
    for (model, judge), rows in kinds.items():
        several = len({j for m, j in kinds if m == model}) > 1
        name = f"{model}, judge {judge}" if several else model
        mixed = [f"{model}: judged by more than one judge; each is reported apart"] if several else []
        sets = _answer_sets(rows)
        if len(sets) > 1:
            mixed.append(f"{name}: {len(sets)} sets of answers under one name (other prompts); each is reported apart")
        for n, members in enumerate(sets, 1):
            called = f"{name}, answers {n}" if len(sets) > 1 else name
            sheet = _sheet(members, expected, model)
            warnings = (*mixed, *(f"{called}: {warning}" for warning in sheet.warnings))
            sheets.append(replace(sheet, name=called, warnings=warnings))
    return sheets if len(sheets) > 1 else [replace(sheets[0], name="")]


def _read(lines: Iterator[Line], run: int) -> Iterator[_Judged]:
    for n, line in enumerate(lines):
        if "judgment" not in line.fields and "model_1" in line.fields:
            raise line.fault("compares two models; this benchmark's score is of single answers (…_single.jsonl)")
        failed, prompt = is_missing(line.get("score")), line.text("user_prompt")
        grade = read_rating(line.text("judgment")) if line.get("judgment") is not None else None
        written = None if failed or line.number_of("score") < 0 else line.number_of("score")
        turn = line.key("turn")
        if turn not in ("1", "2"):
            raise line.fault(f"`turn`: expected 1 or 2, found {turn}")
        stamp = number(line.fields.get("tstamp"))
        yield _Judged(
            line=replace(line, fields={}),
            run=run,
            order=float(n) if stamp is None else stamp,
            who=(line.text("model"), _judge(line)),
            key=(line.key("question_id"), int(turn)),
            prompt=hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest(),
            grade=None if written is None else grade,
            differs=written != grade,
            answer=_judged_answer(prompt),
        )


def _judge(line: Line) -> str:
    """The judge and the version of its prompts; those for mathematics and for two turns belong together."""
    found = line.get("judge")
    parts = found if isinstance(found, list) else [found]
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise line.fault('`judge`: expected a name and a prompt such as ["gpt-4", "single-v1"]')
    return " ".join(part.removesuffix("-multi-turn").replace("-math-", "-") for part in parts)


def _judged_answer(prompt: str) -> str | None:
    for start, end in _ENDS:
        _, found, rest = prompt.rpartition(start)
        if found and end in rest:
            return rest.rpartition(end)[0].strip()
    return None


def _expected(files: Files) -> _Expected:
    questions = once((line for path in files.questions for line in read_table(path)), "question_id")
    answers: dict[tuple[str, str], Sequence[str]] = {}
    faults = []
    for line in (line for path in files.answers for line in read_table(path)):
        key = (line.text("model_id"), line.key("question_id"))
        if key in answers:
            faults.append(f"{line.where}: `question_id` {key[1]} of {key[0]} occurs twice")
        answers[key] = _turns(line)
    for line in questions.values():
        if not isinstance(line.get("turns"), list):
            faults.append(f"{line.where}: `turns`: expected a list of texts")
    if faults:
        raise UserError(*faults)
    return _Expected(
        categories={key: line.text("category") for key, line in questions.items()},
        turns={key: len(line.get("turns")) for key, line in questions.items()},
        answers=answers,
    )


def _turns(line: Line) -> Sequence[str]:
    """The first choice is the one that FastChat has judged."""
    choices = line.get("choices")
    found = choices[0].get("turns") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if not isinstance(found, list) or not all(isinstance(turn, str) for turn in found):
        raise line.fault('`choices`: expected [{"index": 0, "turns": ["…", "…"]}]')
    return found


def _answer_sets(rows: Sequence[_Judged]) -> list[list[_Judged]]:
    """The rows by set of answers: as many as a question has different prompts in one turn, the earliest first.

    A question that has fewer prompts than there are sets (the two answers are alike, or one is missing) goes by time:
    to the set whose rows stand nearest.
    """
    prompts: dict[Key, dict[str, float]] = {}
    for row in sorted(rows, key=lambda row: (row.run, row.order)):
        prompts.setdefault(row.key, {}).setdefault(row.prompt, row.order)
    n_sets = max(len(found) for found in prompts.values())
    if n_sets == 1:
        return [list(rows)]
    sets: list[list[_Judged]] = [[] for _ in range(n_sets)]
    for row in rows:
        if len(prompts[row.key]) == n_sets:
            sets[list(prompts[row.key]).index(row.prompt)].append(row)
    spans = [[(row.run, row.order) for row in members] for members in sets]
    ranges = [(min(span), max(span)) for span in spans]
    for row in rows:
        if len(prompts[row.key]) < n_sets:
            sets[min(range(n_sets), key=lambda i: _distance(row, *ranges[i]))].append(row)
    return sets


def _distance(row: _Judged, first: tuple[int, float], last: tuple[int, float]) -> tuple[bool, float]:
    """How far outside of a set's rows a row stands; another file is farther than any time."""
    inside = first[0] <= row.run <= last[0]
    return not inside, max(first[1] - row.order, row.order - last[1], 0.0)


def _sheet(rows: Sequence[_Judged], expected: _Expected, model: str) -> Sheet:
    kept, repeated = last_of(rows, lambda row: (row.run, row.key))
    others = sum(row.differs for row in kept)
    outcomes = [_outcome(row, expected, model) for row in kept]
    runs = sorted({row.run for row in kept})
    missing = _missing(kept, runs, expected, model)
    outcomes += missing
    warnings = said(repeated, len(rows), "judgments are of a prompt that was judged again; the last one counts")
    warnings += said(
        others, len(kept), "stored scores are not what the judgment says; it counts, but a stored -1 stays a failure"
    )
    warnings += said(len(missing), len(outcomes), "answers were never judged; they count as failed")
    warnings += _strange_answers(kept, expected, model)
    if not expected.turns and not expected.answers:
        warnings += _incomplete(kept)
    measures = [mean("score"), *(_turn(n) for n in (1, 2) if any(o.id.endswith(f":{n}") for o in outcomes))]
    there = {o.category for o in outcomes} - {""}
    named = [c for c in CATEGORIES if c in there] + sorted(there.difference(CATEGORIES))
    measures += [within(mean("score"), category) for category in named]
    if not there:
        warnings.append("the questions' numbers are not MT-Bench's 81 to 160: give --questions for their categories")
    measures = over_runs(measures, outcomes) + length_measures(outcomes)
    return Sheet(outcomes=outcomes, measures=measures, headline="score", warnings=tuple(warnings))


def _turn(n: int) -> Measure:
    return replace(mean("score"), name=f"turn_{n}", only=lambda o: o.id.endswith(f":{n}"))


def _outcome(row: _Judged, expected: _Expected, model: str) -> Outcome:
    value = {} if row.grade is None else {"score": row.grade}
    answer = row.answer
    if answer is None and row.key[1] <= len(expected.answers.get((model, row.key[0]), ())):
        answer = expected.answers[model, row.key[0]][row.key[1] - 1]
    if value and answer is not None:
        value[CHARS] = float(len(answer))
    return Outcome(
        id=f"{row.run}:{row.key[0]}:{row.key[1]}",
        value=value,
        state="ok" if value else "judge_failed",
        cluster=row.key[0],
        category=_category(row.key[0], expected),
        group=str(row.run),
    )


def _category(question: str, expected: _Expected) -> str:
    if expected.categories:
        return expected.categories[question]
    number = int(question) if question.isdecimal() else 0
    return CATEGORIES[(number - FIRST) // 10] if FIRST <= number <= LAST else ""


def _missing(kept: Sequence[_Judged], runs: Sequence[int], expected: _Expected, model: str) -> list[Outcome]:
    """What was asked or answered, or judged in another run, but has no judgment."""
    turns = dict(expected.turns) or {
        question: len(said) for (m, question), said in expected.answers.items() if m == model
    }
    asked = [(q, turn) for q, n in turns.items() for turn in range(1, n + 1)] or list({row.key: 0 for row in kept})
    there = {(row.run, row.key) for row in kept}
    return [
        Outcome(
            id=f"{run}:{q}:{turn}",
            value={},
            state="judge_failed",
            cluster=q,
            group=str(run),
            category=_category(q, expected),
        )
        for run in runs
        for q, turn in asked
        if (run, (q, turn)) not in there
    ]


def _incomplete(kept: Sequence[_Judged]) -> list[str]:
    """Without a list of questions, holes are only warned of: nobody said what should be there."""
    turns = {n: {row.key[0] for row in kept if row.key[1] == n} for n in (1, 2)}
    asked = turns[1] | turns[2]
    one = len(turns[1] ^ turns[2]) if all(turns.values()) else 0
    warnings = said(one, len(asked), "questions have a judgment of one turn only (--questions counts them as failed)")
    if not all(turns.values()):
        warnings.append("there are judgments of one turn only; published scores are of both")
    known = all(_category(question, _Expected({}, {}, {})) for question in asked)
    if known and len(asked) < LAST - FIRST + 1:
        warnings.append(f"{len(asked)} of MT-Bench's 80 questions are judged; published scores are of all")
    return warnings


def _strange_answers(kept: Sequence[_Judged], expected: _Expected, model: str) -> list[str]:
    """Judged answers that are not the given ones."""
    given = {q: turns for (m, q), turns in expected.answers.items() if m == model}
    known = [row for row in kept if row.answer is not None and row.key[1] <= len(given.get(row.key[0], ()))]
    others = sum(row.answer != given[row.key[0]][row.key[1] - 1].strip() for row in known)
    return said(others, len(known), "judged answers are not those of --answers")


MT_BENCH_SCORER = Scorer(
    name="mt_bench",
    read=read_mt_bench,
    needs=("judgments",),
    takes=("questions", "answers"),
    help="--judgments FastChat's model_judgment JSONL (question_id, model, judge, user_prompt, judgment, score, turn) "
    "[--questions question.jsonl] [--answers model_answer JSONL]",
)
