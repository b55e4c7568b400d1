"""Whether evaluation questions stand in other data: exact and n-gram text, sha256 and perceptual image hash.

    index = Overlap("pope", questions)                    # Entry(id="1", texts=("Is there a dog?",), images=(…,))
    for entry in training: index.add(entry)
    index.result()  ->  {"name": "pope", "n": 3000, "leaked": {"value": 0.01, "n": 3000}, "findings": [
        {"item": "17", "text": "exact", "share": 1.0, "image": "near", "together": true,
         "record": "91ab…", "evidence": "is there a dog"}, …]}

Text is compared as words: NFKC, lower case, without punctuation and spacing. A question is *contained* in a record
whose text holds at least `min_share` of the n-grams of one of its turns: of 13 words, as GPT-3's check has it (Brown et
al. 2020, appendix C), of 8 where the turn is shorter than 13; one of fewer than 8 words must be equal to a text of the
record or to one of its lines.
What stands in more than 1% of the questions (and in more than ten) is the set's own form of words, as "Answer with a
single word." is: such n-grams and lines count for none of them. Of the turns of a question the first is compared as an
exact text, later ones where they have 8 words.

Images are equal by sha256 of their bytes, or *near*, as `align/prints.py` says. Near ones are to be looked at: two
charts with one frame differ little. Flat images (blank, one colour) look alike and are compared with nothing. Where one
of two was not opened, they are one image if their files have one *name*, as in `align/agreement/joining.py`.

A question about an image is asked again only where image and text meet in one record; without images, text alone
decides. Where the text meets an image that could be neither opened nor named alike, nobody knows (`leaked` is null):
such questions are left out of the share, counted beside it (`unknown`), and break every limit that is set to it.

Held in memory: of the questions their words and n-grams (about 200 bytes each), of the other data one line per distinct
image and per question that was found; what is found does not depend on the order of either.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from align.prints import DISTANCE, ImagePrint, near

SIZES = (13, 8)
MIN_SHARE = 0.5
SHOWN = 100
"""Findings named in a result; all are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A question or a record: its texts, and those of its images that could be read."""

    id: str
    texts: tuple[str, ...]
    images: tuple[ImagePrint, ...] = ()
    n_images: int = 0
    """How many it has, readable or not."""
    unopened: tuple[str, ...] = ()
    """File names of those that could not be read."""


# ------------------------------------------------------------------------------------------------------------- text

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


def words(text: str) -> list[str]:
    """The words as they are compared: "Don't panic, 日本!" -> ["don't", "panic", "日", "本"]."""
    text = text.replace("<image>", " ")
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFKC", text).replace("’", "'"))
    return _WORD.findall(text.casefold())


def ngrams(sequence: Sequence[str], size: int) -> list[str]:
    return [" ".join(sequence[i : i + size]) for i in range(len(sequence) - size + 1)]


@lru_cache(maxsize=64)
def _lines(text: str) -> list[list[str]]:
    """The words of each line; kept for a moment, since every set is searched for in the same text."""
    return [words(line) for line in text.split("\n")]


def _forms(questions: Sequence[Sequence[str]]) -> set[str]:
    """Lines that many questions share."""
    found = Counter(line for texts in questions for line in {" ".join(w) for t in texts for w in _lines(t)})
    return {line for line, count in found.items() if count > _many(len(questions))}


def _many(n: int) -> int:
    """In how many of n questions something stands at most that tells them apart."""
    return max(10, n // 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """How much of a question stands in a text, and the words that show it."""

    share: float
    exact: bool
    shown: str


class TextIndex:
    """Which of some questions, all different, stand in a text."""

    def __init__(self, questions: Sequence[Sequence[str]], *, sizes: Sequence[int]) -> None:
        least = min(sizes)
        self.exact: dict[str, list[int]] = defaultdict(list)
        self.grams: dict[int, dict[str, list[int]]] = {size: {} for size in sizes}
        """Size -> n-gram -> the turns that hold it."""
        self.question: list[int] = []
        """Turn -> the number of its question."""
        forms = _forms(questions)
        for number, texts in enumerate(questions):
            split = [words(text) for text in texts]
            bare = [[w for line in _lines(text) if " ".join(line) not in forms for w in line] for text in texts]
            for key in {" ".join(w) for side in (split, bare) for i, w in enumerate(side) if i == 0 or len(w) >= least}:
                if key:
                    self.exact[key].append(number)
            for turn in split:
                size = next((s for s in sorted(sizes, reverse=True) if s <= len(turn)), None)
                if size is not None:
                    for gram in set(ngrams(turn, size)):
                        self.grams[size].setdefault(gram, []).append(len(self.question))
                    self.question.append(number)
        self.totals = self._without_forms(len(questions))
        self.searched = {self.question[turn] for turn, total in enumerate(self.totals) if total}
        """Questions that are found by their n-grams; the others only where their texts are equal."""
        # the first two words of each n-gram: a quick no for nearly every place of a text
        self.starts = {s: {tuple(g.split(" ", 2)[:2]) for g in grams} for s, grams in self.grams.items()}

    def _without_forms(self, n: int) -> list[int]:
        """Leave out the n-grams that many questions share; how many each turn has left."""
        most = _many(n)
        left: Counter[int] = Counter()
        for size, grams in self.grams.items():
            kept = {g: turns for g, turns in grams.items() if len({self.question[turn] for turn in turns}) <= most}
            self.grams[size] = kept
            left.update(turn for turns in kept.values() for turn in turns)
        return [left[turn] for turn in range(len(self.question))]

    def look_up(self, text: str) -> Iterator[tuple[int, Hit]]:
        """Each question that stands in `text`, whole or in part; once for each turn that does."""
        lines = _lines(text)
        split = [word for line in lines for word in line]
        same: set[int] = set()
        for key in dict.fromkeys([" ".join(split), *map(" ".join, lines)] if len(lines) > 1 else [" ".join(split)]):
            for number in self.exact.get(key, ()):
                if number not in same:
                    same.add(number)
                    yield number, Hit(share=1.0, exact=True, shown=key)
        hits: dict[int, dict[str, None]] = defaultdict(dict)
        pairs = list(pairwise(split))
        for size, starts in self.starts.items():
            for i in [i for i, pair in enumerate(pairs) if pair in starts]:
                gram = " ".join(split[i : i + size])
                for turn in self.grams[size].get(gram, ()):
                    hits[turn][gram] = None
        for turn, found in hits.items():
            number = self.question[turn]
            if number not in same:
                share = len(found) / self.totals[turn]
                yield number, Hit(share=share, exact=False, shown=next(iter(found)))


# ------------------------------------------------------------------------------------------------------------- both


class _Beside:
    """The images of some records, by all that is known of them -> the first record by id that has it."""

    __slots__ = ("n_unopened", "names", "prints", "unopened")

    def __init__(self) -> None:
        self.prints: dict[str, str] = {}
        """By sha256."""
        self.names: dict[str, str] = {}
        """By file name, those that were opened; `unopened`, the others."""
        self.unopened: dict[str, str] = {}
        self.n_unopened = 0

    def add(self, record: Entry, names: Set[str]) -> None:
        """The images of a record; of file names, those in `names` are kept."""
        found = ((image.name, self.names) for image in record.images)
        for name, known in (*found, *((name, self.unopened) for name in record.unopened)):
            if name in names:
                known[name] = min(record.id, known.get(name, record.id))
        for image in record.images:
            self.prints[image.sha256] = min(record.id, self.prints.get(image.sha256, record.id))
        self.n_unopened += record.n_images - len(record.images)

    def by_name(self, question: Entry) -> str | None:
        """The record of an image with the file name of one of the question's, one of the two not opened."""
        found = [self.unopened.get(image.name) for image in question.images]
        found += [known.get(name) for name in question.unopened for known in (self.names, self.unopened)]
        return min(filter(None, found), default=None)

    def hides(self, question: Entry) -> bool:
        """Whether some image of these and some of the question's could not be compared."""
        return self.n_unopened > 0 or (question.n_images > len(question.images) and bool(self.prints))


class Overlap:
    """One evaluation set, and what was found of it in the records that are added."""

    def __init__(
        self,
        name: str,
        questions: Iterable[Entry],
        *,
        sizes: Sequence[int] = SIZES,
        min_share: float = MIN_SHARE,
        distance: int = DISTANCE,
    ) -> None:
        self.name, self.distance, self.min_share = name, distance, min_share
        self.questions = sorted(questions, key=lambda q: (q.id, q.texts))
        texts: dict[tuple[str, ...], int] = {}
        self.wording = [texts.setdefault(q.texts, len(texts)) for q in self.questions]
        """The number of each question's texts: POPE asks one question about many images."""
        self.about_images = {number for q, number in zip(self.questions, self.wording, strict=True) if q.n_images}
        self.index = TextIndex(list(texts), sizes=sizes)
        self.best: dict[int, tuple[Hit, str]] = {}
        """Number -> where most of it stands in one text, and the record of that text."""
        self.meetings: dict[int, _Beside] = defaultdict(_Beside)
        """Number, of a question about an image -> the images it was found beside."""
        self.names = {n for q in self.questions for n in (*q.unopened, *(i.name for i in q.images)) if n}
        self.images = _Beside()
        """The images of all records."""
        self.prints: dict[str, ImagePrint] = {}
        """By sha256."""
        self.n_records = self.n_images = 0

    def add(self, record: Entry) -> None:
        """Compare one record with every question."""
        self.n_records += 1
        self.n_images += record.n_images
        self.images.add(record, self.names)
        for image in record.images:
            if image.dct is not None or image.sha256 not in self.prints:
                self.prints[image.sha256] = image
        for text in record.texts:
            for number, hit in self.index.look_up(text):
                self._keep(number, hit, record)

    def _keep(self, number: int, hit: Hit, record: Entry) -> None:
        old = self.best.get(number)
        if old is None or _rank(hit, record.id) < _rank(*old):
            self.best[number] = (hit, record.id)
        if hit.share >= self.min_share and number in self.about_images:
            self.meetings[number].add(record, self.names)

    def result(self) -> dict[str, Any]:
        """What was found, the surest first; ids of both sides."""
        images = self._images()
        numbered = list(zip(self.wording, self.questions, strict=True))
        found = [row for number, q in numbered if (row := self._finding(number, q, images)) is not None]
        found.sort(key=lambda f: (_SURE[f["leaked"]], f["text"] is None, f["image"] is None, -f["share"], f["item"]))
        texts, pictures, leaked = (Counter(f[key] for f in found) for key in ("text", "image", "leaked"))
        with_images = [q for q in self.questions if q.n_images]
        shared = pictures["same"] + pictures["near"] + pictures["name"]
        blind = sum(not self._comparable(q) for q in with_images)
        why = self._why(with_images)
        return {
            "name": self.name,
            "n": len(self.questions),
            "n_records": self.n_records,
            "leaked": _share(leaked[True], len(self.questions), why, leaked[None], _asked(leaked[None])),
            "n_unknown": leaked[None],
            "text": {
                "exact": texts["exact"],
                "contained": texts["contained"],
                "touched": texts["touched"],
                "exact_only": sum(number not in self.index.searched for number in self.wording),
            },
            "images": {
                "shared": _share(shared, len(with_images), why, blind, why),
                "same": pictures["same"],
                "near": pictures["near"],
                "name": pictures["name"],
                "flat": sum(any(i.flat for i in q.images) for q in with_images),
                "n_unreadable": sum(q.n_images - len(q.images) for q in with_images),
                "n_records_unreadable": self.images.n_unopened,
                "n_by_bytes_only": self._by_bytes_only(),
            },
            "findings": found[:SHOWN],
            "n_findings": len(found),
        }

    def _comparable(self, question: Entry) -> bool:
        """Whether it can be said if an image of the question is in the data."""
        opened = bool(question.images) and (bool(self.prints) or not self.n_images)
        return opened or self.images.by_name(question) is not None

    def _by_bytes_only(self) -> int:
        """Distinct images, of both sides, whose pixels were not seen: copies of them are found only if unchanged."""
        images = {i.sha256: i for q in self.questions for i in q.images} | self.prints
        return sum(i.dct is None and not i.flat for i in images.values())

    def _why(self, with_images: Sequence[Entry]) -> str:
        if not with_images:
            return "no question has an image" if self.questions else "there are no questions"
        if not all(q.images for q in with_images):
            return "the images of the questions could not be read; give their folder: NAME=FILE,IMAGE_ROOT"
        return "the images of the data could not be read; give their folder: --image-root DIR"

    def _finding(self, number: int, question: Entry, images: dict[str, dict[str, str]]) -> dict[str, Any] | None:
        hit, record = self.best.get(number, (None, None))
        enough = hit is not None and hit.share >= self.min_share
        text = None if hit is None else "exact" if hit.exact else "contained" if enough else "touched"
        like = {theirs: kind for ours in question.images for theirs, kind in images.get(ours.sha256, {}).items()}
        by_name = self.images.by_name(question)
        image = "same" if "same" in like.values() else "near" if like else "name" if by_name else None
        if text is None and image is None:
            return None
        met = self.meetings.get(number)
        both = [r for sha, r in met.prints.items() if sha in like] if met else []
        named = met.by_name(question) if met else None
        together = min(both, default=named)
        leaked: bool | None = together is not None if question.n_images else enough
        if not leaked and met is not None and met.hides(question):
            leaked = None
        by_image = min((self.images.prints[sha] for sha in like), default=by_name)
        return {
            "item": question.id,
            "leaked": leaked,
            "text": text,
            "share": round(hit.share, 4) if hit else 0.0,
            "image": image,
            "together": together is not None,
            "record": together or (record if enough or image is None else by_image),
            "evidence": hit.shown[:200] if hit else "",
        }

    def _images(self) -> dict[str, dict[str, str]]:
        """sha256 of a question's image -> sha256 of each image of the records that is like it -> same or near."""
        import numpy as np

        ours = {i.sha256: i for q in self.questions for i in q.images if not i.flat}
        theirs = {sha: image for sha, image in self.prints.items() if not image.flat}
        found: dict[str, dict[str, str]] = defaultdict(dict)
        a, b = ([i for _, i in sorted(side.items()) if i.dct is not None] for side in (ours, theirs))
        hashes = [np.array([i.dct for i in side], dtype=np.uint64) for side in (a, b)]
        for i, j in zip(*near(hashes[0], hashes[1], self.distance), strict=True):
            if ((a[i].gradient or 0) ^ (b[j].gradient or 0)).bit_count() <= self.distance:
                found[a[i].sha256][b[j].sha256] = "near"
        for sha in ours.keys() & theirs.keys():
            found[sha][sha] = "same"
        return found


def _rank(hit: Hit, record: str) -> tuple[bool, float, str, str]:
    return not hit.exact, -hit.share, record, hit.shown


_SURE = {True: 0, None: 1, False: 2}


def _asked(n: int) -> str:
    """What is to be said of questions that stand in the data beside images that could not be compared."""
    are, their = ("is", "its") if n == 1 else ("are", "their")
    give = "give NAME=FILE,IMAGE_ROOT and --image-root"
    return f"{n:,} {are} asked in the data, {their} images could not be compared: {give}"


def _share(count: int, n: int, why: str, unknown: int, why_unknown: str) -> dict[str, Any]:
    """The share of those that are known; `why` nothing is, or why some are not."""
    left = {"unknown": unknown, "why": why_unknown} if unknown else {}
    if n == unknown:
        return {"value": None, "n": 0, "why": why, **left}
    return {"value": round(count / (n - unknown), 4), "n": n - unknown, **left}
