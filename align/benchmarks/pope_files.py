r"""POPE in its own files (arXiv:2305.10355): answers as LLaVA's evaluation writes them, questions, labels per split.

    answers     {"question_id":1,"prompt":"Is there a snowboard in the image?\nAnswer …","text":"No"}
    questions   {"question_id":1,"image":"COCO_val2014_000000310196.jpg","text":"Is there a …","category":"adversarial"}
    labels      coco_pope_{random,popular,adversarial}.json: {"image":…,"text":"Is there a …?","label":"no"}

Labels are joined on image and question, not on order or number: the numbers of the two files count differently, and
there are versions of the random split with 2,910 and with 3,000 rows.
"""

from __future__ import annotations

from pathlib import Path

from align.benchmarks.files import Line, is_missing, once, read_table
from align.benchmarks.judge_replies import is_web_page
from align.benchmarks.measures import Measure, Outcome, average, mean, ratio, within
from align.benchmarks.published import BY_WORD, Source, bare, gathered_rows, row_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.scoring import OFFICIAL_YES_NO, STRICT_YES_NO, read_yes_no
from align.benchmarks.sheet import Files, Scorer, Sheet
from annotate.errors import UserError

SPLITS = ("random", "popular", "adversarial")
PARSERS = {"official": OFFICIAL_YES_NO, "strict": STRICT_YES_NO}

_F1 = ratio("f1", lambda v: 2 * v["yes"] * v["truth"], lambda v: v["yes"] + v["truth"])
_KINDS = (
    _F1,
    mean("accuracy"),
    ratio("precision", lambda v: v["yes"] * v["truth"], lambda v: v["yes"]),
    ratio("recall", lambda v: v["yes"] * v["truth"], lambda v: v["truth"]),
    mean("yes_ratio", "yes"),
)


def read_pope(files: Files) -> list[Sheet]:
    """One sheet of all splits that were asked. The headline is the mean of their F1, as published tables have it."""
    parser = PARSERS[files.parser or "official"]
    answers = once((line for path in files.answers for line in read_table(path)), "question_id")
    questions = once((line for path in files.questions for line in read_table(path)), "question_id")
    labels = _labels(_label_files(files.labels), {q.text("category") for q in questions.values()})
    strays = [line for key, line in answers.items() if key not in questions]
    faults = [line.fault("answers a question that is not asked; are both files of one benchmark?") for line in strays]
    outcomes, others = [], 0
    for key, question in questions.items():
        answer = answers.get(key)
        label = labels.get((question.text("category"), question.text("image"), _bare(question.text("text"))))
        if label is None:
            faults.append(question.fault("its labels hold no such image and question; are they of the same version?"))
        elif answer and "prompt" in answer.fields and _bare(answer.text("prompt")) != _bare(question.text("text")):
            faults.append(answer.fault(f"answers another question than {question.where} asks"))
        else:
            said = None if answer is None or is_missing(answer.get("text")) else answer.text("text")
            outcomes.append(_outcome(key, question, said, label, parser))
            others += _reads_otherwise(said or "", parser)
    if faults:
        raise UserError(*map(str, faults))
    asked = dict.fromkeys(o.category for o in outcomes)
    warnings = _uneven(outcomes, labels)
    if others:
        warnings.append(
            f"{others} of {len(outcomes)} answers do not begin with yes or no; the official reading takes one without "
            "the words no and not for a yes (--parser strict: they have no score)"
        )
    return [Sheet(outcomes=outcomes, measures=_measures(list(asked)), headline="f1", warnings=tuple(warnings))]


def read_pope_rows(source: Source) -> list[Row]:
    """POPE's questions to be asked: with the text of the file of questions, else of the labels, as LLaVA asks them.

    Also of a hub's data set such as lmms-lab/POPE: id, question, answer, category, image.
    """
    if "hub" in source:
        return gathered_rows(source.table(), lambda line: _hub_row(source, line))
    paths = _label_files((source["labels"],))
    if "questions" not in source:
        lines = [
            Line(line.path, line.number, {**line.fields, "category": split, "id": f"{split}/{line.key('question_id')}"})
            for split, path in paths.items()
            for line in read_table(path)
        ]
        labels = _labels(paths, set(paths))
        return gathered_rows(lines, lambda line: _row(source, line, labels, BY_WORD))
    questions = once(source.table(), "question_id").values()
    labels = _labels(paths, {line.text("category") for line in questions})
    return gathered_rows(questions, lambda line: _row(source, line, labels, ""))


def _row(source: Source, line: Line, labels: dict[tuple[str, str, str], bool], more: str) -> Row:
    text, split = bare(line.text("text")), line.text("category")
    label = labels.get((split, line.text("image"), _bare(text)))
    if label is None:
        raise line.fault("its labels hold no such image and question; are they of the same version?")
    return yes_no_row(source, line, key=line.key("id", "question_id"), text=text + more, truth=label, category=split)


def _hub_row(source: Source, line: Line) -> Row:
    said, text = line.text("answer").strip().lower(), bare(line.text("question"))
    if said not in ("yes", "no"):
        raise line.fault(f"`answer`: expected yes or no, found {said!r}")
    text = text if "\n" in text else text + BY_WORD
    key, split = f"{line.text('category')}/{line.key('id', 'question_id')}", line.text("category")
    return yes_no_row(source, line, key=key, text=text, truth=said == "yes", category=split)


def yes_no_row(source: Source, line: Line, *, key: str, text: str, truth: bool, category: str) -> Row:
    """A question whose truth is yes or no."""
    word = "yes" if truth else "no"
    return row_of(
        suite="pope",
        id=key,
        text=text,
        image=source.image(line.get("image"), line),
        question=Question(
            text=text,
            kind="yes_no",
            answer=word,
            accepted={"word": word},
            polarity="positive" if truth else "negative",
        ),
        category=category,
    )


def _outcome(key: str, question: Line, said: str | None, label: bool, parser: str) -> Outcome:
    yes = read_yes_no(said, parser) if said and said.strip() and not is_web_page(said) else None
    value = {} if yes is None else {"yes": float(yes), "truth": float(label), "accuracy": float(yes == label)}
    return Outcome(
        id=key,
        value=value,
        state="unanswered" if said is None else "unparsed" if yes is None else "ok",
        cluster=question.text("image"),
        category=question.text("category"),
    )


def _reads_otherwise(said: str, parser: str) -> bool:
    return (
        bool(said.strip()) and not is_web_page(said) and read_yes_no(said, STRICT_YES_NO) != read_yes_no(said, parser)
    )


def _measures(splits: list[str]) -> tuple[Measure, ...]:
    """Each over all splits as their unweighted mean, then split by split."""
    return tuple(
        measure
        for kind in _KINDS
        for measure in (average(kind.name, [within(kind, s) for s in splits]), *(within(kind, s) for s in splits))
    )


def _label_files(given: tuple[Path, ...]) -> dict[str, Path]:
    """Split -> file; of a folder, the JSON files whose names end with a split, and `coco_pope_*` before others."""
    found: dict[str, Path] = {}
    faults = []
    for split in SPLITS:
        paths = [p for path in given for p in (sorted(path.iterdir()) if path.is_dir() else [path])]
        mine = [p for p in paths if p.stem.endswith(split) and p.suffix in (".json", ".jsonl") and p.is_file()]
        mine = [p for p in mine if p.stem == f"coco_pope_{split}"] or mine
        if len(mine) > 1:
            faults.append(f"{' and '.join(map(str, mine))}: both are labels of {split}; give the right files by name")
        found |= {split: mine[0]} if mine else {}
    if faults:
        raise UserError(*faults)
    if not found:
        wanted = ", ".join(f"coco_pope_{split}.json" for split in SPLITS)
        raise UserError(f"{' '.join(map(str, given))}: no labels here; expected files such as {wanted}")
    return found


def _labels(paths: dict[str, Path], asked: set[str]) -> dict[tuple[str, str, str], bool]:
    labels: dict[tuple[str, str, str], bool] = {}
    faults = []
    for split in sorted(asked - paths.keys()):
        faults.append(f"questions of the split {split!r} have no file of labels; there are {', '.join(paths)}")
    for split in sorted(asked & paths.keys()):
        for line in read_table(paths[split]):
            said = line.text("label").strip().lower()
            if said not in ("yes", "no"):
                faults.append(f"{line.where}: `label`: expected yes or no, found {said!r}")
            key = (split, line.text("image"), _bare(line.text("text")))
            if labels.setdefault(key, said == "yes") != (said == "yes"):
                faults.append(f"{line.where}: the same image and question is labelled both yes and no")
    if faults:
        raise UserError(*faults)
    return labels


def _uneven(outcomes: list[Outcome], labels: dict[tuple[str, str, str], bool]) -> list[str]:
    """Splits of which only a part was asked: another version of the benchmark."""
    said = []
    for split in dict.fromkeys(o.category for o in outcomes):
        asked, there = (sum(o.category == split for o in outcomes), sum(key[0] == split for key in labels))
        if asked != there:
            said.append(
                f"{split}: {asked:,} questions were asked, the labels have {there:,}: the files are of two versions of "
                "POPE (2,910 and 3,000 rows are known), so the number is not comparable with either"
            )
    return said


def _bare(question: str) -> str:
    """A question without the line that asks for a form."""
    return question.split("\n", 1)[0].strip()


POPE_SCORER = Scorer(
    name="pope",
    read=read_pope,
    needs=("answers", "questions", "labels"),
    parsers=("official", "strict"),
    help="--answers JSONL (question_id, text) --questions JSONL (question_id, image, text, category) --labels DIR with "
    "coco_pope_{random,popular,adversarial}.json",
)
