"""Captions of COCO and Flickr30k: CIDEr-D against what five people wrote of the same picture.

Two published layouts hold the references; which one a file has is told from its fields:

    COCO       {"images":[{"id":42,"file_name":"COCO_val2014_000000000042.jpg"}],
                "annotations":[{"image_id":42,"caption":"This wire metal rack holds several pairs of shoes."}]}
    Karpathy   {"dataset":"flickr30k","images":[{"filename":"1007129816.jpg","split":"test",
                "sentences":[{"raw":"The man with pierced ears is wearing glasses and an orange hat."}]}]}

`dataset_flickr30k.json` and `dataset_coco.json` are of the second; of them the images of the split `test` count (1,000
and 5,000), as in published tables. Answers are COCO's own result file, `[{"image_id":42,"caption":"A rack of shoes"}]`,
or JSON Lines of the same; images of Flickr30k are named by their file.

How rare a word is comes from the references of all images that are asked about, so the same caption is worth something
else in another set. The values are those of the official program: 1.1 is what tables print as 110.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from align.benchmarks.cider import TOKENIZER, CiderD
from align.benchmarks.files import Line, load_json, once, read_table
from align.benchmarks.measures import Outcome, mean
from align.benchmarks.rows import Question, Row
from align.benchmarks.scoring import n_words
from align.benchmarks.sheet import Files, Scorer, Sheet
from align.benchmarks.suite import Score, Suite
from align.digest import file_sha256
from annotate.errors import UserError
from annotate.records import Image, Prompt, Turn

PROMPT = "Provide a one-sentence caption for the provided image."
"""LLaVA-1.5 (arXiv:2310.03744, appendix A) was tuned on captions with it, and is asked with it by other harnesses."""
SPLIT = "test"


@dataclass(frozen=True)
class Captioned:
    """An image and what people wrote of it."""

    id: str
    file: str
    references: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------ published files


def read_references(path: Path) -> list[Captioned]:
    """The images of a file of references, in its order. Raises `UserError` naming file and place."""
    found = load_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("images"), list):
        raise UserError(f"{path}: expected an object with `images` (COCO's annotations, or Karpathy's dataset_*.json)")
    images = [Line(path, i, image) for i, image in _objects(path, "images", found["images"])]
    if "annotations" in found:
        made = _coco(images, [Line(path, i, a) for i, a in _objects(path, "annotations", found["annotations"])])
    else:
        made = _karpathy(path, images)
    bare = [image.id for image in made if not image.references]
    if bare:
        raise UserError(f"{path}: {len(bare)} images have no caption, the first is {bare[0]}")
    if not made:
        raise UserError(f"{path}: no images in it")
    return made


def _objects(path: Path, name: str, rows: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, row in enumerate(rows if isinstance(rows, list) else [], 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: `{name}` number {i}: expected an object with fields")
        yield i, row


def _coco(images: Sequence[Line], annotations: Sequence[Line]) -> list[Captioned]:
    by_id = once(images, "id")
    captions: dict[str, list[str]] = {key: [] for key in by_id}
    for line in annotations:
        key = line.key("image_id")
        if key not in captions:
            raise UserError(f"{line.where}: `image_id` {key} is none of the file's `images`")
        captions[key].append(line.text("caption"))
    return [Captioned(key, line.text("file_name"), tuple(captions[key])) for key, line in by_id.items()]


def _karpathy(path: Path, images: Sequence[Line]) -> list[Captioned]:
    chosen = [line for line in images if line.text("split") == SPLIT]
    if images and not chosen:
        splits = ", ".join(sorted({line.text("split") for line in images}))
        raise UserError(f"{path}: no image of the split {SPLIT!r}; its splits are {splits}")
    made = []
    for line in chosen:
        name = line.text("filename")
        key = line.key("cocoid") if "cocoid" in line.fields else _stem(name)
        sentences = [Line(path, line.number, s) for _, s in _objects(path, "sentences", line.get("sentences"))]
        folder = line.text("filepath") if "filepath" in line.fields else ""
        made.append(Captioned(key, str(PurePosixPath(folder, name)), tuple(s.text("raw") for s in sentences)))
    return made


def _stem(name: str) -> str:
    """`1007129816.jpg` and `1007129816` name one image."""
    return name.removesuffix(".jpg")


# ----------------------------------------------------------------------------------------- answers that somebody has


def read_captions(files: Files) -> list[Sheet]:
    """One sheet: a value per image that is asked about; an image without a caption is a failure, not left out."""
    asked = {image.id: image for path in files.questions for image in read_references(path)}
    said = once((_named(line) for path in files.answers for line in read_table(path)), "image_id")
    strays = [line.fault("is of an image that is not asked about") for key, line in said.items() if key not in asked]
    if strays:
        raise UserError(*map(str, strays))
    scorer = CiderD({key: image.references for key, image in asked.items()})
    outcomes = []
    for key in asked:
        score = _worth(scorer, key, said[key].text("caption", "text")) if key in said else None
        state = score.state if score else "unanswered"
        outcomes.append(Outcome(id=key, value=score.value if score else {}, state=state, cluster=key))
    missing = len(asked) - len(said)
    warnings = (
        (
            f"{missing:,} of {len(asked):,} images have no caption; the official program would leave them out, and "
            "take the rarity of words from the rest: give the references of the images that were asked about",
        )
        if missing
        else ()
    )
    return [Sheet(outcomes=outcomes, measures=MEASURES, headline="cider_d", warnings=warnings)]


def _named(line: Line) -> Line:
    """The row with its image under one name; LLaVA's answer files have it as `question_id`."""
    return Line(line.path, line.number, {**line.fields, "image_id": _stem(line.key("image_id", "question_id"))})


def _worth(scorer: CiderD, image: str, caption: str) -> Score:
    if not caption.strip():
        return Score(value={}, state="unparsed")
    return Score(value={"cider_d": scorer.value(image, caption), "n_words": n_words(caption)})


# ------------------------------------------------------------------------------------------------ asked of a model


def caption_rows(suite: str, references: Path, images: Path, root: Path) -> list[Row]:
    """The rows of a benchmark file: the images lie in `images`, their paths are relative to `root` (`image_root`)."""
    rows, faults = [], []
    for captioned in read_references(references):
        file = _found(images, captioned.file)
        try:
            shown = Image(path=file.relative_to(root).as_posix(), sha256=file_sha256(file))
        except OSError as error:
            faults.append(f"{file}: cannot be read ({error.strerror}); is {images} the folder of the images?")
            continue
        except ValueError:
            raise UserError(f"{images}: does not lie in {root}, which images are named from") from None
        turn = Turn(role="user", text=f"<image>\n{PROMPT}", images=(shown,))
        question = Question(text=PROMPT, kind="caption", truth={"references": list(captioned.references)})
        rows.append(Row(id=captioned.id, suite=suite, prompt=Prompt.of((turn,)), questions=(question,)))
    if faults:
        raise UserError(*faults)
    return rows


def _found(images: Path, file: str) -> Path:
    """Karpathy's file names a folder (`val2014`) that may or may not be there."""
    whole = images / file
    return whole if whole.is_file() else images / PurePosixPath(file).name


def score_among(rows: Sequence[Row]) -> Callable[[Row, Sequence[str]], Score]:
    """What scores a caption, given all rows that are asked: the rarity of a word comes from their references."""
    return partial(_score, CiderD({row.id: _references(row) for row in rows}))


def _score(scorer: CiderD, row: Row, outputs: Sequence[str]) -> Score:
    return _worth(scorer, row.id, outputs[0])


def _references(row: Row) -> list[str]:
    return list((row.questions[0].truth or {})["references"])


def _needs(row: Row) -> str:
    references = (row.questions[0].truth or {}).get("references")
    if isinstance(references, list) and references and all(isinstance(text, str) for text in references):
        return ""
    return "question.truth: captions need `references`, a list of texts"


def _alone(row: Row, outputs: Sequence[str]) -> Score:
    raise RuntimeError("CIDEr-D depends on all rows that are asked: take the suite from Suite.asking")


MEASURES = (mean("cider_d"), mean("n_words"))


def _suite(name: str) -> Suite:
    return Suite(
        name=name,
        file=name,
        text=False,
        parser=f"cider-d/1 {TOKENIZER}",
        score=_alone,
        among=score_among,
        measures=MEASURES,
        headline="cider_d",
        answer=lambda row: _references(row)[0],
        needs=_needs,
    )


def _scorer(name: str, questions: str) -> Scorer:
    return Scorer(
        name=name,
        read=read_captions,
        needs=("answers", "questions"),
        help=f"--answers JSON (image_id, caption) --questions JSON, {questions}; words by {TOKENIZER}",
    )


COCO_CAPTIONS, FLICKR30K = _suite("coco_captions"), _suite("flickr30k")
COCO_SCORER = _scorer("coco_captions", "COCO's captions_*.json or Karpathy's dataset_coco.json")
FLICKR30K_SCORER = _scorer("flickr30k", "Karpathy's dataset_flickr30k.json")
