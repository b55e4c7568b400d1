"""ScienceQA (arXiv:2209.09513) in its own files, answers as LLaVA's evaluation or ScienceQA's own writes them.

    problems.json      {"4":{"question":"…","choices":["…","…"],"answer":1,"hint":"","image":"image.png",
                             "subject":"natural science","grade":"grade7","split":"test",…},…}
    pid_splits.json    {"test":["4","5",…],"val":[…],…}
    answers            {"question_id":"4","prompt":"…","text":"The answer is B."}              JSON Lines, or
                       {"results":{"4":1,…},"outputs":{"4":"The answer is B.",…}}              one JSON object

Where texts are recorded they are read again; an index alone (-1: none) is taken as it is. Classes are those of the
paper's table: natural, social and language science; text context (a hint), image context, no context; grades 1-6, 7-12.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from align.benchmarks.files import Line, is_missing, load_json, number, once, read_table
from align.benchmarks.letters import LETTER, LLAVA_LETTER, read_letter
from align.benchmarks.measures import Measure, Outcome, mean
from align.benchmarks.published import Source, choice_row, gathered_rows, needs_choice, score_letter
from align.benchmarks.rows import Row
from align.benchmarks.sheet import Files, Scorer, Sheet
from align.benchmarks.suite import Score, Suite
from annotate.errors import UserError

PARSERS = {"letter": LETTER, "official": LLAVA_LETTER}
SUBJECTS = {"natural science": "nat", "social science": "soc", "language science": "lan"}
CLASSES = ("img", "txt", "no", "nat", "soc", "lan", "g1_6", "g7_12")


def score_choice_text(text: str, choices: Sequence[str], answer: int, parser: str = LETTER) -> Score:
    """1 if the text names the right option. What names none has no score; in LLaVA's reading it is wrong."""
    said = read_letter(text, choices, parser)
    if not text.strip() or (said is None and parser != LLAVA_LETTER):
        return Score(value={}, state="unparsed")
    return Score(value={"accuracy": float(said == answer)})


def classes(problem: Line) -> str:
    """The columns of the paper's table that this problem counts in, with spaces between."""
    image, hint = bool(problem.fields.get("image")), bool(problem.fields.get("hint"))
    found = [SUBJECTS.get(problem.fields.get("subject") or "", "")]
    found += ["img"] * image + ["txt"] * hint + ["no"] * (not image and not hint)
    grade = str(problem.fields.get("grade") or "").removeprefix("grade")
    found += ["g1_6" if int(grade) <= 6 else "g7_12"] if grade.isdigit() else []
    return " ".join(name for name in found if name)


def of_class(measure: Measure, name: str) -> Measure:
    """The measure over what counts in one class; a question counts in several."""
    return replace(measure, name=f"{measure.name}_{name}", only=lambda o: name in o.category.split())


def measures_of(categories: Iterable[str]) -> tuple[Measure, ...]:
    """Accuracy, that of each class that is there, and that of the questions without an image where others have one."""
    found = {frozenset(category.split()) for category in categories}
    there = {name for names in found for name in names}
    known = tuple(m for m in MEASURES if m.name == "accuracy" or m.name.removeprefix("accuracy_") in there)
    return (*known, WITHOUT_IMAGE) if "img" in there and any("img" not in names for names in found) else known


WITHOUT_IMAGE = replace(mean("accuracy"), name="accuracy_without_img", only=lambda o: "img" not in o.category.split())
"""No class of the paper's: MLAN (arXiv:2411.10557, Appendix C.1) takes the mean of this half and of the other."""
MEASURES = (mean("accuracy"), *(of_class(mean("accuracy"), name) for name in CLASSES))


# ------------------------------------------------------------------------------------------------------- `align score`


def read_scienceqa(files: Files) -> list[Sheet]:
    """One sheet of one split: the one that holds all that was answered."""
    parser = PARSERS[files.parser or "letter"]
    problems, splits = read_problems([*files.questions, *files.labels])
    answers = once(_answers(files.answers), "question_id")
    split, asked = _asked(problems, splits, answers)
    faults = [
        f"{line.where}: its question is not in {f'the split {split}' if key in problems else 'problems.json'}"
        for key, line in answers.items()
        if key not in asked
    ]
    faults += [f"the split {split} names problem {key}, which problems.json lacks" for key in asked - problems.keys()]
    faults += [str(fault) for key in sorted(asked & problems.keys()) if (fault := _fault(problems[key]))]
    if faults:
        raise UserError(*faults)
    outcomes = [_outcome(key, problem, answers.get(key), parser) for key, problem in problems.items() if key in asked]
    unread = sum(o.state == "unparsed" for o in outcomes)
    warnings = [f"scored on the split {split}: {len(outcomes):,} questions"] if split not in ("", "test") else []
    if unread and parser == LETTER:
        warnings.append(f"{unread} of {len(outcomes)} answers name no option, or two: they have no score")
    measures = measures_of(o.category for o in outcomes)
    return [Sheet(outcomes=outcomes, measures=measures, headline="accuracy", warnings=tuple(warnings))]


def read_problems(paths: Sequence[Path]) -> tuple[dict[str, Line], dict[str, list[str]]]:
    """Problems by id, and the splits if a file of them is given; told apart by what is in them."""
    problems: dict[str, Line] = {}
    splits: dict[str, list[str]] = {}
    for path in [file for given in paths for file in (_in_folder(given) if given.is_dir() else [given])]:
        found = load_json(path)
        if not isinstance(found, dict) or not found:
            raise UserError(f"{path}: expected ScienceQA's problems.json or pid_splits.json, an object by id or split")
        if all(isinstance(ids, list) for ids in found.values()):
            splits |= {name: [str(one) for one in ids] for name, ids in found.items()}
            continue
        for place, (key, fields) in enumerate(found.items(), 1):
            if not isinstance(fields, dict):
                raise UserError(f"{path}: problem {key}: expected an object with fields, found {fields!r:.60}")
            problems[key] = Line(path, place, fields)
    if not problems:
        raise UserError("align score scienceqa: --questions problems.json is missing: what is right stands in it")
    return problems, splits


def _in_folder(folder: Path) -> list[Path]:
    return [folder / name for name in ("problems.json", "pid_splits.json") if (folder / name).is_file()]


def _answers(paths: Iterable[Path]) -> Iterator[Line]:
    """One line per answered question, with `text`, or with `index` where that alone was recorded."""
    for path in paths:
        whole = _object(path)
        if whole is None:
            yield from read_table(path)
            continue
        outputs, results = whole.get("outputs") or {}, whole.get("results") or {}
        if not isinstance(outputs, dict) or not isinstance(results, dict) or not (outputs or results):
            raise UserError(f"{path}: expected `results` (and `outputs`) by question id; it has {', '.join(whole)}")
        for place, key in enumerate(dict.fromkeys([*results, *outputs]), 1):
            said = outputs.get(key)
            said = results.get(key) if is_missing(said) else said
            name = "text" if isinstance(said, str) and number(said) is None else "index"
            yield Line(path, place, {"question_id": key, name: said})


def _object(path: Path) -> Mapping[str, Any] | None:
    """The one JSON object of a result file; None for JSON Lines."""
    if path.suffix not in (".json", ".jsonl"):
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError):
        return None  # lines, or what `read_table` has words for
    if not isinstance(found, dict) or "question_id" in found:
        return None
    return found if path.suffix == ".json" or "results" in found or "outputs" in found else None


def _asked(
    problems: Mapping[str, Line], splits: Mapping[str, list[str]], answers: Mapping[str, Line]
) -> tuple[str, set[str]]:
    """The test split, or the smallest one that holds every answered question."""
    if not splits:
        by_field: dict[str, list[str]] = {}
        for key, problem in problems.items():
            by_field.setdefault(str(problem.fields.get("split") or ""), []).append(key)
        splits = by_field
    holding = [name for name, ids in splits.items() if answers.keys() <= set(ids)]
    name = min(holding, key=lambda n: len(splits[n]), default="test" if "test" in splits else next(iter(splits)))
    return name, set(splits[name])


def _fault(problem: Line) -> Exception | None:
    choices, answer = problem.get("choices"), problem.get("answer")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        return problem.fault("`choices`: expected a list of texts")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        return problem.fault(f"`answer`: expected the index of one of {len(choices)} choices, found {answer!r}")
    return None


def _outcome(key: str, problem: Line, answer: Line | None, parser: str) -> Outcome:
    about = {"id": key, "cluster": key, "category": classes(problem)}
    if answer is None:
        return Outcome(**about, value={}, state="unanswered")
    if "index" in answer.fields:
        said = -1.0 if is_missing(answer.fields["index"]) else number(answer.fields["index"])
        if said is None or not said.is_integer():
            found = f"{answer.fields['index']!r:.60}"
            raise UserError(f"{answer.where}: result of question {key}: expected text or an index, found {found}")
        score = Score(value={"accuracy": float(said == problem.fields["answer"])})
        if said < 0 and parser == LETTER:
            score = Score(value={}, state="unparsed")
    else:
        text = "" if is_missing(answer.get("text")) else answer.text("text")
        score = score_choice_text(text, problem.fields["choices"], problem.fields["answer"], parser)
    return Outcome(**about, value=score.value, state=score.state)


# ----------------------------------------------------------------------------------------------------- asked of a model


def read_scienceqa_rows(source: Source, *, suite: str, with_image: bool) -> list[Row]:
    """The test split of problems.json (or that the source names), or a hub's split; images in a folder per problem."""
    if "hub" in source:
        lines = [Line(line.path, line.number, {"id": str(line.number), **line.fields}) for line in source.table()]
        return gathered_rows(lines, lambda line: _row(source, line, suite, with_image, None))
    problems, splits = read_problems([source[role] for role in ("questions", "splits") if role in source])
    split = source.files.get("split", "test")
    ids = splits.get(split) or [key for key, p in problems.items() if p.fields.get("split", split) == split]
    lacking = [key for key in ids if key not in problems]
    if lacking or not ids:
        raise UserError(f"split {split!r}: {len(lacking)} of its {len(ids)} problems are missing in problems.json")
    lines = [Line(problems[key].path, problems[key].number, {"id": key, **problems[key].fields}) for key in ids]
    return gathered_rows(lines, lambda line: _row(source, line, suite, with_image, split))


def _row(source: Source, line: Line, suite: str, with_image: bool, split: str | None) -> Row | None:
    if fault := _fault(line):
        raise fault
    image = line.fields.get("image")
    if with_image and not image:
        return None
    key = line.text("id")
    if isinstance(image, str):  # images/test/4/image.png; some unpack them without the split
        below = f"{key}/{image}"
        named = f"{split}/{below}" if (Path(source.files.get("images", ".")) / str(split)).is_dir() else below
        image = named
    return choice_row(
        suite=suite,
        id=key,
        question=line.text("question"),
        hint=str(line.fields.get("hint") or ""),
        options=line.fields["choices"],
        answer=line.fields["answer"],
        image=source.image(image, line) if image else None,
        category=classes(line),
    )


def _suite(name: str, *, with_image: bool) -> Suite:
    return Suite(
        name=name,
        file=name,
        text=False,
        images="own" if with_image else "any",
        parser=LETTER,
        score=score_letter,
        measures=MEASURES[:1],
        measured=measures_of,
        headline="accuracy",
        needs=needs_choice,
        read=partial(read_scienceqa_rows, suite=name, with_image=with_image),
        roles={"questions": True, "splits": False, "images": True},
    )


SCIENCEQA, SCIENCEQA_IMG = _suite("scienceqa", with_image=False), _suite("scienceqa_img", with_image=True)
SCIENCEQA_SCORER = Scorer(
    name="scienceqa",
    read=read_scienceqa,
    needs=("answers",),
    takes=("questions", "labels"),
    parsers=("letter", "official"),
    help="--answers JSONL (question_id, text) or JSON (results, outputs) --questions problems.json "
    "[--labels pid_splits.json]",
)
