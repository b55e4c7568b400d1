"""What is wrong with a data file before anything is trained on it: every fault, and figures of the whole.

    report = check_file(Path("dpo.json"), form="auto", images=ImageStore(root=Path("images")))
    report.faults     ["dpo.json row 3: chosen and rejected are the same text; ...", ...]
    report.records    {"pairs": 5084}

A format's reader tells what makes a row no record: a missing or corrupt image, placeholders that are too many or too
few, an empty answer, a score outside its range, turns that do not alternate. Here records are looked at once more, for
what they may hold and no training should: see `_faults`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from align.formats.containers import Progress, container_of, placed_at, read_rows
from align.formats.format import KINDS, Format, Made
from align.formats.parts import answer
from align.formats.reading import Fault, format_of, read_file
from align.formats.store import UNOPENED, ImageStore
from annotate.errors import RecordError, UserError
from annotate.records import IMAGE_PLACEHOLDER, Annotated, Example, PreferencePair, Prompt, Rubric
from annotate.rubric import check_scores

CHARACTERS_PER_TOKEN = 4
TURN_TOKENS = 5
"""What a chat template puts around a turn, about."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a row may be. Without `count` lengths are estimated by characters, and only warned of."""

    max_length: int
    image_tokens: int = 576
    count: Callable[[str], int] | None = None

    def of(self, prompt: Prompt, completion: str) -> int:
        """Tokens of a prompt and an answer, images and the template's own included."""
        text = "".join(turn.text for turn in prompt.turns).replace(IMAGE_PLACEHOLDER, "") + completion
        words = self.count(text) if self.count else -(-len(text) // CHARACTERS_PER_TOKEN)
        return words + self.image_tokens * len(prompt.images) + TURN_TOKENS * (len(prompt.turns) + 1)


def tokenizer_count(path: Path) -> Callable[[str], int]:
    """A counter of tokens from a model's folder or its tokenizer.json. Raises `UserError` where it cannot be read."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError("--tokenizer needs the package tokenizers: pip install 'mmalign[train]'") from None
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"--tokenizer: {file} cannot be read ({error}); give a folder with tokenizer.json") from None
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


@dataclass(kw_only=True)
class Report:
    """What was found."""

    form: str
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    records: Counter[str] = field(default_factory=Counter)
    """Per kind: pairs, examples, annotated, prompts."""
    text_only: int = 0
    repeated: int = 0
    """Records that stand in the file once more."""
    empty_completions: int = 0
    """Of annotated prompts: data, which no builder trains upon."""
    too_long: int = 0
    longest: int = 0
    images: dict[str, str] = field(default_factory=dict)
    """Path -> sha256 of what was opened; the name of an image that stands in a row is its sha256."""

    @property
    def same_bytes(self) -> list[tuple[str, ...]]:
        """Paths that name one image, in groups of two and more."""
        groups: dict[str, list[str]] = {}
        for path, sha256 in sorted(self.images.items()):
            groups.setdefault(sha256, []).append(path)
        return [tuple(paths) for paths in groups.values() if len(paths) > 1]


def check_file(
    path: Path,
    *,
    form: str = "auto",
    images: ImageStore,
    rubric: Rubric | None = None,
    length: Length | None = None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Every record of a file of any format. Raises `UserError` only where the file as a whole cannot be read."""
    chosen = format_of(path, form)
    report = Report(form=chosen.name)
    seen: set[str] = set()
    for where, record in _placed(path, chosen, images, report.faults, progress):
        report.records[KINDS[type(record)]] += 1
        for fault in _faults(record, rubric, images if chosen.name == "mmalign" else None):
            report.faults.append(f"{where}: {fault}")
        _tally(report, record, seen, images.root is not None)
        if length is not None:
            _measure(report, record, length, where)
    if not report.records and not report.faults:
        report.faults.append(f"{path}: holds no record")
    return report


def _placed(
    path: Path, form: Format, images: ImageStore, faults: list[str], progress: Progress
) -> Iterator[tuple[str, Made]]:
    """Each record and where it stands; a row that is none is a fault."""
    if form.read is None:  # one completion a row: what belongs together stands anywhere
        told: list[Fault] = []
        for record in read_file(path, form=form.name, images=images, faults=told, progress=progress):
            yield f"{path} prompt {_id(record)}", record
        faults[:0] = map(str, told)
        return
    container = container_of(path)
    for placed in read_rows(path, progress=progress):
        where = placed_at(path, container, placed.number)
        if placed.fault or not isinstance(placed.value, dict):
            faults.append(f"{where}: {placed.fault or f'expected an object, got {type(placed.value).__name__}'}")
            continue
        try:
            for record in form.read(placed.value, images):
                yield where, record
        except RecordError as error:
            faults.append(f"{where}: {error}")


def _id(record: Made) -> str:
    return record.prompt.id if isinstance(record, Annotated) else record.id


def _prompt(record: Made) -> Prompt:
    return record if isinstance(record, Prompt) else record.prompt


def _faults(record: Made, rubric: Rubric | None, images: ImageStore | None) -> Iterator[str]:
    """What a record may hold and no training should. `images` for records that name images nobody has opened yet."""
    try:
        if isinstance(record, PreferencePair):
            answer(record.chosen.text, "chosen")
            answer(record.rejected.text, "rejected")
            if record.chosen.text == record.rejected.text:
                yield "chosen and rejected are the same text; nothing is preferred: take the row out"
        elif isinstance(record, Example):
            answer(record.completion, "completion")
        elif isinstance(record, Annotated):
            check_scores(record, rubric)
    except RecordError as error:
        yield str(error)
    for image in _prompt(record).images if images is not None and images.root is not None else ():
        assert images is not None
        try:
            found = images.named(image.path)
        except RecordError as error:
            yield str(error)
            continue
        if found.sha256 != image.sha256 and not image.sha256.startswith(UNOPENED):
            yield f"image {image.path!r}: is not the one of the record (sha256 {image.sha256[:16]}…); was it changed?"


def _tally(report: Report, record: Made, seen: set[str], opened: bool) -> None:
    prompt = _prompt(record)
    report.text_only += not prompt.images
    if _id(record) in seen:
        report.repeated += 1
    seen.add(_id(record))
    if isinstance(record, Annotated):
        report.empty_completions += sum(not completion.text.strip() for completion in record.completions)
    for image in prompt.images:
        if not image.sha256.startswith(UNOPENED) and (opened or image.path.startswith(image.sha256)):
            report.images[image.path] = image.sha256


def _measure(report: Report, record: Made, length: Length, where: str) -> None:
    """The longest answer of a record against what a row may hold."""
    prompt = _prompt(record)
    if isinstance(record, PreferencePair):
        answers = [record.chosen.text, record.rejected.text]
    elif isinstance(record, Example):
        answers = [record.completion]
    else:
        answers = [c.text for c in record.completions] if isinstance(record, Annotated) else [""]
    n = max((length.of(prompt, text) for text in answers), default=0)
    report.longest = max(report.longest, n)
    if n <= length.max_length:
        return
    report.too_long += 1
    if length.count is not None:
        report.faults.append(
            f"{where}: {n} tokens with its images, more than {length.max_length}: it will be cut; shorten it, take it "
            "out, or train with a greater max_length"
        )
