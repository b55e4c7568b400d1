"""AI2D (arXiv:1603.07396): multiple choice about diagrams of school books, answered by letter.

folder       questions/0.png.json {"imageName":"0.png","questions":{"Which …?":{"questionId":"0.png-0",
"answerTexts":["a","b","c","d"],"correctAnswer":1}}}, images/0.png; splits: ai2d_test_ids.csv
questions    JSON Lines {"id":…,"question":"…","options":["…"],"answer":1,"image":"0.png"}, or a TSV with columns
A, B, C, D and a letter as answer
hub          lmms-lab/ai2d: question, options, answer (an index), image
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from align.benchmarks.files import Line, load_json
from align.benchmarks.letters import LETTER, LETTERS
from align.benchmarks.measures import mean
from align.benchmarks.mmbench import cell, options_of
from align.benchmarks.published import (
    Source,
    choice_row,
    gathered_rows,
    needs_choice,
    numbered,
    score_letter,
    scorer_of,
)
from align.benchmarks.rows import Row
from align.benchmarks.suite import Suite
from annotate.errors import UserError


def read_ai2d(source: Source) -> list[Row]:
    """The questions; of the folder as published those about the images of `splits`, where that is given."""
    if "folder" in source:
        role = "splits" if "splits" in source else "labels" if "labels" in source else ""
        lines: Iterator[Line] = _official(source["folder"], source[role] if role else None)
    else:
        lines = source.table()
    return gathered_rows(numbered(lines, "id", "question_id", "questionId", "index"), lambda line: _row(source, line))


def _row(source: Source, line: Line) -> Row:
    options, answer = given_choice(line)
    return choice_row(
        suite="ai2d",
        id=line.key("id"),
        question=line.text("question"),
        options=options,
        answer=answer,
        image=source.image(line.get("image", "imageName"), line),
    )


def given_choice(line: Line) -> tuple[list[str], int]:
    """Options of a list or of the columns A, B, …; the answer as an index, a digit or a letter."""
    listed = line.fields.get("options", line.fields.get("answerTexts"))
    options = [str(option) for option in listed] if isinstance(listed, list | tuple) else options_of(line)
    if len(options) < 2:
        raise line.fault("expected at least two options, in a list `options` or in the columns A, B, …")
    truth = cell(line.get("answer", "correctAnswer"))
    at = int(truth) if truth.isdigit() else LETTERS.find(truth.upper()) if len(truth) == 1 else -1
    if not 0 <= at < len(options):
        raise line.fault(f"`answer`: expected the index or letter of one of {len(options)} options, found {truth!r}")
    return options, at


def _official(folder: Path, split: Path | None) -> Iterator[Line]:
    wanted = {word.strip() for word in split.read_text("utf-8").replace(",", "\n").split()} if split else None
    files = sorted((folder / "questions").glob("*.json"))
    if not files:
        raise UserError(f"{folder}: no questions/*.json here; is it the folder of AI2D?")
    for path in files:
        name = path.name.removesuffix(".json")
        if wanted is not None and not {name, Path(name).stem} & wanted:
            continue
        found = load_json(path)
        questions = found.get("questions") if isinstance(found, dict) else None
        if not isinstance(questions, dict):
            raise UserError(f"{path}: expected an object with `questions`")
        for number, (text, asked) in enumerate(questions.items(), 1):
            if not isinstance(asked, dict):
                raise UserError(f"{path}: question {text!r:.60}: expected an object with answerTexts and correctAnswer")
            yield Line(path, number, {"image": f"images/{name}", "question": text, **asked})


AI2D = Suite(
    name="ai2d",
    file="ai2d",
    text=False,
    parser=LETTER,
    score=score_letter,
    measures=(mean("accuracy"),),
    headline="accuracy",
    needs=needs_choice,
    read=read_ai2d,
    roles={"folder": False, "questions": False, "splits": False, "images": False},
)
AI2D_SCORER = scorer_of(
    AI2D,
    "--answers JSONL (question_id, text) --questions AI2D's folder [--labels ai2d_test_ids.csv], or JSONL or TSV",
    labels=True,
)
