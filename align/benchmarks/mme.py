r"""MME (arXiv:2306.13394): two yes/no questions about each image, fourteen tasks, answers one task to a file.

    existence.txt    0001.jpg <tab> Is there a dog in this image? Please answer yes or no. <tab> Yes <tab> Yes, it is.

A task's score is (accuracy + accuracy+) x 100, where accuracy+ asks for both questions about an image; perception is
the sum of ten tasks (2000 at most), cognition of four (800). Sight Beyond Text (section 3.4) leaves out landmark and
artwork, which is `perception_without_landmark_artwork`. The official reading takes an answer for yes or no by its first
four letters, and what says neither is wrong; `strict` reads the first word, and what says neither has no score. An
empty answer never has one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from align.benchmarks.files import Line
from align.benchmarks.measures import Measure, Outcome, mean, ratio, total, within
from align.benchmarks.published import Source, bare, gathered_rows, row_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.scoring import STRICT_YES_NO, read_yes_no
from align.benchmarks.sheet import Files, Scorer, Sheet
from align.benchmarks.suite import Score, Suite
from annotate.errors import UserError

FIRST_FOUR = "yes-no-first-four-letters/1"
PARSERS = {"official": FIRST_FOUR, "strict": STRICT_YES_NO}

PERCEPTION = {
    "existence": 30, "count": 30, "position": 30, "color": 30, "posters": 147, "celebrity": 170, "scene": 200,
    "landmark": 200, "artwork": 200, "OCR": 20,
}  # fmt: skip
COGNITION = {"commonsense_reasoning": 70, "numerical_calculation": 20, "text_translation": 20, "code_reasoning": 20}
TASKS = PERCEPTION | COGNITION
"""Task -> images in the release version, two questions each: 2,374 in all."""
_SUMS: dict[str, Collection[str]] = {
    "perception": PERCEPTION,
    "cognition": COGNITION,
    "perception_without_landmark_artwork": [t for t in PERCEPTION if t not in ("landmark", "artwork")],
}

_ACCURACY = mean("accuracy")
_PLUS = ratio("accuracy_plus", lambda v: v["both"], lambda v: v["paired"])
"""Over the questions of complete pairs: each pair stands there twice, which changes nothing."""


# ---------------------------------------------------------------------------------------------- what an answer is worth


def said(text: str, parser: str) -> bool | None:
    """Yes, no, or None where the text says neither (which officially is wrong, see `score_answer`)."""
    if parser != FIRST_FOUR:
        return read_yes_no(text, parser)
    start = text.strip().lower()[:4]
    return True if "yes" in start else False if "no" in start else None


def score_answer(text: str, truth: bool, parser: str = FIRST_FOUR) -> Score:
    """`accuracy`; `yes`: it said so. Of `both` and `paired` knows `pool_pairs`."""
    found = said(text, parser)
    if not text.strip() or (found is None and parser != FIRST_FOUR):
        return Score(value={}, state="unparsed")
    return Score(value={"accuracy": float(found == truth), "yes": float(found is True)})


def score_row(row: Row, outputs: Sequence[str]) -> Score:
    """One recorded answer to one question."""
    return score_answer(outputs[0], row.questions[0].polarity == "positive")


def pool_pairs(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """`both`: both questions about the image were answered rightly; of a pair that lacks an answer it is not known."""
    pairs: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        pairs[outcome.group].append(outcome)
    right = {
        group: float(all(o.value["accuracy"] for o in pair))
        for group, pair in pairs.items()
        if len(pair) == 2 and all(o.state == "ok" for o in pair)
    }
    return [
        replace(o, value={**o.value, "both": right.get(o.group, 0.0), "paired": float(o.group in right)})
        if o.state == "ok"
        else o
        for o in outcomes
    ]


def measures_of(tasks: Iterable[str]) -> tuple[Measure, ...]:
    """The sums whose tasks are all there, then score, accuracy and accuracy+ of each task."""
    there = [task for task in TASKS if task in set(tasks)]
    if not there:
        return (_ACCURACY, _PLUS)
    return (
        *(_score_of(name, wanted) for name, wanted in _SUMS.items() if set(wanted) <= set(there)),
        *(_score_of(f"score_{task}", [task]) for task in there),
        *(within(kind, task) for kind in (_ACCURACY, _PLUS) for task in there),
    )


def _score_of(name: str, tasks: Iterable[str]) -> Measure:
    return total(name, [within(kind, task) for task in tasks for kind in (_ACCURACY, _PLUS)], times=100)


# ------------------------------------------------------------------------------------------------------- `align score`


def read_mme(files: Files) -> list[Sheet]:
    """One sheet of all tasks in the folder. The headline is perception, where its ten tasks are there."""
    parser = PARSERS[files.parser or "official"]
    paths, faults = _task_files(files.answers)
    outcomes: list[Outcome] = []
    neither = 0
    for task, path in paths.items():
        lines = list(read_task(path, faults))
        faults += pair_faults(lines, path)
        for line in lines:
            image, text, answer = (line.fields[name] for name in ("image", "question", "answer"))
            score = score_answer(answer, line.fields["truth"], parser)
            neither += bool(answer.strip()) and said(answer, parser) is None
            outcomes.append(
                Outcome(
                    id=f"{task}/{image}/{text}",
                    value=score.value,
                    state=score.state,
                    cluster=f"{task}/{image}",
                    category=task,
                    group=f"{task}/{image}",
                )
            )
    if faults:
        raise UserError(*faults)
    measures = measures_of(paths)
    warnings = list(_other_version(outcomes, paths))
    if neither and parser == FIRST_FOUR:
        warnings.append(
            f"{neither} of {len(outcomes)} answers say neither yes nor no in their first four letters; officially they "
            "are wrong (--parser strict: they have no score)"
        )
    return [
        Sheet(outcomes=pool_pairs(outcomes), measures=measures, headline=measures[0].name, warnings=tuple(warnings))
    ]


def read_task(path: Path, faults: list[str]) -> Iterator[Line]:
    """Lines of one task's file, with `truth` as a bool; what is wrong goes to `faults`. Answers may hold tabs."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; is it the right file?") from None
    if not text.strip():
        faults.append(f"{path}: no answers in it")
    for number, row in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not row.strip():
            continue
        image, question, truth, answer = [*row.split("\t", 3), "", "", ""][:4]
        if truth.strip().lower() not in ("yes", "no"):
            faults.append(
                f"{path}:{number}: expected image, question, truth (yes or no) and answer with tabs between them, "
                f"found {row[:60]!r}; a header, or an answer with a line break?"
            )
            continue
        fields = {"image": image, "question": question, "truth": truth.strip().lower() == "yes", "answer": answer}
        yield Line(path, number, fields)


def pair_faults(lines: Sequence[Line], path: Path) -> list[str]:
    """Questions that occur twice, and images with one question or with three."""
    asked: dict[str, dict[str, int]] = defaultdict(dict)
    faults = []
    for line in lines:
        image, question = line.fields["image"], line.fields["question"].strip()
        if question in asked[image]:
            faults.append(f"{line.where}: answers the same question as line {asked[image][question]}")
        asked[image][question] = line.number
    faults += [
        f"{path}: image {image!r} has {len(questions)} of its two questions (line {next(iter(questions.values()))}); "
        "accuracy+ needs both"
        for image, questions in asked.items()
        if len(questions) != 2
    ]
    return faults


def _task_files(given: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """Task -> file; and a fault for each file that is no task's."""
    paths = [p for path in given for p in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
    names = {task.lower(): task for task in TASKS}
    found: dict[str, Path] = {}
    faults = []
    for path in paths:
        task = names.get(path.stem.lower())
        if task is None or path.suffix != ".txt":
            faults.append(f"{path}: is no task of MME; expected {', '.join(f'{t}.txt' for t in TASKS)}")
        elif task in found:
            faults.append(f"{path}: answers of {task} are in {found[task]} as well")
        else:
            found[task] = path
    if not paths:
        faults.append(f"{' '.join(map(str, given))}: no answers here; expected files such as existence.txt")
    return {task: found[task] for task in TASKS if task in found}, faults


def _other_version(outcomes: Sequence[Outcome], paths: Iterable[str]) -> Iterator[str]:
    missing = [task for task in TASKS if task not in set(paths)]
    if missing:
        yield f"no answers for {', '.join(missing)}: sums over tasks that need them are left out"
    for task in paths:
        images = len({o.group for o in outcomes if o.category == task})
        if images != TASKS[task]:
            yield (
                f"{task}: {images} images, MME's release has {TASKS[task]}: a part, or another version, and not "
                "comparable with published scores"
            )


# ----------------------------------------------------------------------------------------------------- asked of a model

_ENDINGS = (".jpg", ".png", ".jpeg", ".webp")


def read_mme_rows(source: Source) -> list[Row]:
    """Both questions about each image: of the release's folder, or of a hub's data set such as lmms-lab/MME."""
    rows = gathered_rows(_of_hub(source) if "hub" in source else _of_folder(source["folder"]), partial(_row, source))
    pairs: dict[str, int] = defaultdict(int)
    for row in rows:
        pairs[row.group] += 1
    odd = [f"{group}: has {n} of its two questions; accuracy+ needs both" for group, n in pairs.items() if n != 2]
    if odd:
        raise UserError(*odd)
    return rows


def _row(source: Source, line: Line) -> Row:
    task, group, text = line.text("task"), line.text("group"), bare(line.text("question"))
    truth = line.text("answer").strip().lower()
    if truth not in ("yes", "no"):
        raise line.fault(f"`answer`: expected yes or no, found {truth!r}")
    return row_of(
        suite="mme",
        id=line.text("id"),
        text=text,
        image=source.image(line.get("image"), line),
        question=Question(
            text=text, kind=task, answer=truth, accepted={"word": truth},
            polarity="positive" if truth == "yes" else "negative",
        ),
        category=task,
        group=group,
    )  # fmt: skip


def _of_hub(source: Source) -> Iterator[Line]:
    """Both rows of an image have one `question_id`."""
    seen: dict[str, int] = defaultdict(int)
    for line in source.table():
        task = line.text("category")
        if task not in TASKS:
            raise line.fault(f"`category`: {task!r} is no task of MME: {', '.join(TASKS)}")
        group = f"{task}/{line.key('question_id').removeprefix(f'{task}/')}"
        seen[group] += 1
        more = {"task": task, "group": group, "id": f"{group}/{seen[group]}"}
        yield Line(line.path, line.number, {**line.fields, **more})


def _of_folder(folder: Path) -> Iterator[Line]:
    """A folder per task; texts and images lie in it, or below `questions_answers_YN` and `images`."""
    tasks = [task for task in TASKS if (folder / task).is_dir()]
    if not tasks:
        raise UserError(f"{folder}: no folder of a task here; expected {', '.join(TASKS)}")
    for task in tasks:
        texts = sorted((folder / task).glob("questions_answers_YN/*.txt")) or sorted((folder / task).glob("*.txt"))
        if not texts:
            raise UserError(f"{folder / task}: no questions here; expected a .txt beside each image")
        for path in texts:
            stems = [folder / task / below / path.stem for below in (".", "images") if (folder / task / below).is_dir()]
            files = [stem.with_name(stem.name + ending) for stem in stems for ending in _ENDINGS]
            image = next((file for file in files if file.is_file()), files[0])
            for number, row in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
                if row.strip():
                    question, _, answer = row.partition("\t")
                    group = f"{task}/{path.stem}"
                    fields = {"task": task, "group": group, "id": f"{group}/{number}", "question": question}
                    yield Line(path, number, {**fields, "answer": answer, "image": str(image.relative_to(folder))})


def _asked_measures(tasks: Sequence[str]) -> tuple[Measure, ...]:
    """Those of `align score`, and the accuracy over all tasks, by which models are compared."""
    found = measures_of(tasks)
    return found if _ACCURACY in found else (*found, _ACCURACY)


def _no_sums(tasks: Sequence[str]) -> str:
    """Which totals there are none of, and for want of which tasks."""
    gone = {name: [t for t in wanted if t not in tasks] for name, wanted in _SUMS.items()}
    return "; ".join(f"no total {name}: tasks {', '.join(lost)} are missing" for name, lost in gone.items() if lost)


MME = Suite(
    name="mme",
    file="mme",
    text=False,
    parser=FIRST_FOUR,
    score=score_row,
    measures=(_ACCURACY, _PLUS),
    measured=_asked_measures,
    lacking=_no_sums,
    headline="accuracy",
    pool=pool_pairs,
    needs=lambda row: "" if row.questions[0].polarity and row.group else "needs polarity, and its pair as `group`",
    read=read_mme_rows,
    roles={"folder": True},
)
MME_SCORER = Scorer(
    name="mme",
    read=read_mme,
    needs=("answers",),
    parsers=("official", "strict"),
    help="--answers DIR with <task>.txt: image, question, truth, answer, with tabs between them; two lines an image",
)
