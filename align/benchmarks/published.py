"""A benchmark's own published files as rows that can be asked, and answers to them as a sheet that can be scored.

    source = Source(files={"questions": "ai2d_test.jsonl", "images": "ai2d/images"}, images=ImageStore(root=None))
    rows   = AI2D.read(source)                                   nothing of the images is opened
    rows   = AI2D.read(Source(files={"hub": "lmms-lab/ai2d", "split": "test"}, images=ImageStore(...)))

Rows name their images by path; whoever shows them looks at the files and fills in the hashes (`hashed`). Images whose
bytes stand in the rows (base64, a hub's column) are known by their bytes at once, and written where the store says so.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from align.benchmarks.files import Line, load_json, once, read_table
from align.benchmarks.letters import LETTER, LETTERS, read_letter
from align.benchmarks.measures import Outcome
from align.benchmarks.rows import Question, Row
from align.benchmarks.sheet import Files, Scorer, Sheet
from align.benchmarks.suite import Score, Suite
from align.formats.images import CheckedImage
from align.formats.store import UNOPENED, ImageStore
from annotate.errors import RecordError, UserError
from annotate.records import IMAGE_PLACEHOLDER, Image, Prompt, Turn, replace

BY_LETTER = "\nAnswer with the option's letter from the given choices directly."
BY_WORD = "\nAnswer the question using a single word or phrase."
"""How LLaVA-1.5 (arXiv:2310.03744, table 12) asks for short answers; goes behind questions that do not say it."""


NAMES = ("hub", "config", "split")
"""Roles that are names; the others are files or folders."""
HUB_ROLES = (*NAMES, "images")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the questions of a benchmark come from: role -> file or folder, or a data set of the hub."""

    files: Mapping[str, str]
    images: ImageStore = field(default_factory=lambda: ImageStore(root=None))

    def __getitem__(self, role: str) -> Path:
        return Path(self.files[role])

    def __contains__(self, role: str) -> bool:
        return role in self.files

    def table(self, role: str = "questions") -> Iterator[Line]:
        """Rows of a file, or of the hub's data set where the source is one."""
        return _hub(self.files) if "hub" in self.files else read_table(self[role])

    def image(self, value: Any, line: Line) -> Image:
        """An image of a row: a path, a hub's {bytes, path}, or bytes in base64."""
        try:
            if isinstance(value, Mapping):
                return self.images.embedded(_bytes(value), str(value.get("path") or ""))
            if isinstance(value, str) and len(value) > 64 and "." not in value:  # base64 has no period, names have one
                return self.images.embedded(base64.b64decode(value, validate=True))
            if isinstance(value, str) and value.strip():
                return self.images.named(value.strip())
        except binascii.Error:
            raise line.fault("`image`: is neither a path nor base64; was it cut off?") from None
        except RecordError as error:
            raise line.fault(str(error)) from None
        raise line.fault(f"`image`: expected a path, base64 or bytes, found {str(value)[:60]!r}")


def _bytes(value: Mapping[str, Any]) -> bytes:
    if isinstance(value.get("bytes"), bytes):
        return bytes(value["bytes"])
    raise RecordError("`image`: holds no bytes; is the data set whole?")


def _hub(files: Mapping[str, str]) -> Iterator[Line]:
    """Rows of a data set of the hub, or of a folder that `datasets` wrote; images stay undecoded."""
    name, split = files["hub"], files.get("split", "test")
    if find_spec("datasets") is None:
        raise UserError(f"{name}: reading from the hub needs datasets: pip install 'mmalign[formats]'")
    import datasets

    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
            found = datasets.load_from_disk(name)
            rows = found[split] if isinstance(found, datasets.DatasetDict) else found
        else:
            rows = datasets.load_dataset(name, files.get("config"), split=split)
        for column, feature in rows.features.items():
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # network, hub, builders and file formats raise their own, without a common root
        said = str(error).strip().splitlines() or ["no reason given"]
        raise UserError(
            f"{name} (split {split}): cannot be loaded ({type(error).__name__}: {said[0][:200]}); with its files at "
            "hand name them instead, or give a folder that `save_to_disk` wrote"
        ) from None
    for number, row in enumerate(rows, 1):
        yield Line(Path(name), number, row)


# --------------------------------------------------------------------------------------------------------------- rows


def row_of(*, suite: str, id: str, text: str, image: Image | None, question: Question, **rest: Any) -> Row:
    """One question about one image (or about none)."""
    shown = f"{IMAGE_PLACEHOLDER}\n{text}" if image else text
    turn = Turn(role="user", text=shown, images=(image,) if image else ())
    prompt = Prompt.of((turn,), source=suite, source_id=id)
    return Row(id=id, suite=suite, prompt=prompt, questions=(question,), **rest)


def bare(text: str) -> str:
    """A question without marks of images in it."""
    return text.replace(IMAGE_PLACEHOLDER, "").strip()


def choice_text(question: str, options: Sequence[str], hint: str = "") -> str:
    """A multiple choice as LLaVA-1.5 shows it."""
    lines = [*([hint] if hint else []), question, *(f"{LETTERS[i]}. {option}" for i, option in enumerate(options))]
    return bare("\n".join(lines)) + BY_LETTER


def choice_row(*, question: str, options: Sequence[str], answer: int, hint: str = "", **rest: Any) -> Row:
    """A multiple choice that is answered by its letter."""
    text = choice_text(question, options, hint)
    truth = {"options": list(options), "answer": answer}
    return row_of(text=text, question=Question(text=text, kind="choice", truth=truth), **rest)


def score_letter(row: Row, outputs: Sequence[str]) -> Score:
    """1 if the answer names the right option; what names none, or two, has no score."""
    truth = row.questions[0].truth or {}
    said = read_letter(outputs[0], truth["options"], LETTER)
    if said is None:
        return Score(value={}, state="unparsed")
    return Score(value={"accuracy": float(said == truth["answer"])})


def needs_choice(row: Row) -> str:
    """What `score_letter` needs of a row."""
    truth = row.questions[0].truth or {}
    options, answer = truth.get("options"), truth.get("answer")
    if isinstance(options, list) and isinstance(answer, int) and 0 <= answer < len(options):
        return ""
    return "question.truth: a choice needs `options`, a list of texts, and `answer`, the index of the right one"


def gathered_rows(lines: Iterable[Line], make: Callable[[Line], Row | None]) -> list[Row]:
    """A row of each line, without those that `make` leaves out. Raises `UserError` with the faults of all lines."""
    rows: dict[str, Row] = {}
    places: dict[str, str] = {}
    faults: list[str] = []
    for line in lines:
        try:
            row = make(line)
        except UserError as error:
            faults += [fault if line.where in fault else f"{line.where}: {fault}" for fault in error.faults]
            continue
        if row is None:
            continue
        if row.id in rows:
            faults.append(f"{line.where}: id {row.id} occurs twice, first in {places[row.id]}")
        rows[row.id], places[row.id] = row, line.where
    if faults:
        raise UserError(*faults)
    return list(rows.values())


def numbered(lines: Iterable[Line], *names: str) -> Iterator[Line]:
    """Lines with an `id`: their own, else their image's name and, from the second on, how often it came."""
    seen: dict[str, int] = {}
    for line in lines:
        own = next((name for name in names if name in line.fields), None)
        if own:
            key = line.key(own)
        else:
            image = line.fields.get("image", line.fields.get("image_path"))
            name = image if isinstance(image, str) else str(line.number - 1)
            seen[name] = seen.get(name, 0) + 1
            key = name if seen[name] == 1 else f"{name}#{seen[name]}"
        yield Line(line.path, line.number, {**line.fields, "id": key})


def hashed(rows: Sequence[Row], checked: Mapping[str, CheckedImage]) -> list[Row]:
    """Rows whose images were named by path only, with the hashes that a look at the files gave."""
    found = []
    for row in rows:
        if any(image.sha256.startswith(UNOPENED) for image in row.prompt.images):
            images = tuple(
                Image(path=i.path, sha256=checked[i.path].sha256 or i.sha256) if i.sha256.startswith(UNOPENED) else i
                for i in row.prompt.images
            )
            turn = replace(row.prompt.turns[0], images=images)
            row = replace(row, prompt=Prompt.of((turn,), source=row.prompt.source, source_id=row.prompt.source_id))
        found.append(row)
    return found


# ------------------------------------------------------------------------------------------------------- `align score`

_IDS = ("question_id", "index", "id", "questionId")
_SAID = ("text", "prediction", "output", "answer")


def scorer_of(suite: Suite, help: str, *, labels: bool = False) -> Scorer:
    """Answers to the rows that the suite reads: JSON Lines (question_id, text), a JSON list, or an object by id."""
    return Scorer(
        name=suite.name,
        read=lambda files: [sheet_of(suite, files)],
        needs=("answers", "questions"),
        takes=("labels",) if labels else (),
        help=help,
    )


def sheet_of(suite: Suite, files: Files) -> Sheet:
    """Every question that the suite reads from the files, with what was said to it."""
    assert suite.read is not None and suite.score is not None
    roles = {"folder" if files.questions[0].is_dir() else "questions": str(files.questions[0])}
    if files.labels:
        roles["labels"] = str(files.labels[0])
    rows = {row.id: row for row in suite.read(Source(files=roles))}
    said = once(answers_of(files.answers), "id")
    faults = [
        f"{line.where}: answers a question that is not asked; are both files of one benchmark?"
        for key, line in said.items()
        if key not in rows
    ]
    outcomes = []
    for key, row in rows.items():
        line = said.get(key)
        if line and not _asks_the_same(line, row):
            faults.append(f"{line.where}: answers another question than {key} asks")
        score = suite.score(row, [line.text(*_SAID)]) if line else None
        outcomes.append(
            Outcome(
                id=key,
                value=score.value if score else {},
                state=score.state if score else "unanswered",
                cluster=row.cluster,
                category=row.category,
                group=row.group,
            )
        )
    if faults:
        raise UserError(*faults)
    asking = suite.asking(list(rows.values()))
    unread = sum(o.state == "unparsed" for o in outcomes)
    warnings = [f"{unread} of {len(outcomes)} answers cannot be read: they have no score"] if unread else []
    pooled = suite.pool(outcomes) if suite.pool else outcomes
    return Sheet(outcomes=pooled, measures=asking.measures, headline=suite.headline, warnings=tuple(warnings))


def answers_of(paths: Iterable[Path]) -> Iterator[Line]:
    """Lines with `id`, whichever layout they come from."""
    for path in paths:
        found = load_json(path) if path.suffix == ".json" and _is_object(path) else None
        if isinstance(found, dict) and all(isinstance(one, dict) for one in found.values()):
            lines: Iterable[Line] = (Line(path, i, {"id": k, **v}) for i, (k, v) in enumerate(found.items(), 1))
        else:
            lines = read_table(path)
        yield from numbered(lines, *_IDS)


def _is_object(path: Path) -> bool:
    """One object over several lines or of objects by id; JSON Lines begin with an object that ends in its line."""
    first = path.read_text(encoding="utf-8-sig").lstrip()[:1_000_000]
    return first.startswith("{") and "\n{" not in first.strip()


def _asks_the_same(line: Line, row: Row) -> bool:
    """Whether the question that stands beside an answer, if one does, is the row's."""
    asked = row.questions[0].text.split("\n", 1)[0].strip()
    for name in ("question", "prompt"):
        stands = line.fields.get(name)
        if isinstance(stands, str) and stands.strip():
            return asked in stands or bare(stands).split("\n", 1)[0].strip() in row.questions[0].text
    return True
