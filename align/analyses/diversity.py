"""How alike the questions of a training set are: cosine similarities of random pairs, as in MLAN, section 3.4 (Fig. 8).

Three settings: both questions about images, both of language alone, one of each. The paper draws 10,000 pairs in each
and compares the means by z-tests, which take pairs for independent draws. They are not where a question occurs in
several pairs: `Comparison.low, high, p` count questions instead (`spread`). The paper does not say whether a question
is paired with itself: pairs of one item are left out here.

Files are read twice: first every question is counted by its hash, then only those of drawn pairs are kept and embedded.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.analyses.embedders import PAPER, Embedder, Vectors
from align.analyses.questions import Asked, read_questions
from align.digest import file_sha256
from align.stats import LEVEL
from annotate.errors import UserError

Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]
PAIRS = 10_000
STEP = 0.02
EDGES = np.round(np.arange(-1.0, 1.0 + STEP / 2, STEP), 2)
"""Of the histograms: 100 bins."""
FEWEST = 5
"""Items on either side of the pairs, below which no interval is given."""
BATCH = 1024
"""So many questions are embedded at once."""
Progress = Callable[[str, int, int], None]


@dataclass
class Rows:
    """The questions of one modality, each known by two hashes."""

    items: array[int] = field(default_factory=lambda: array("Q"))
    texts: array[int] = field(default_factory=lambda: array("Q"))

    def sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Items and texts in an order of their own, whatever the order of rows and files."""
        items, texts = (np.frombuffer(held, dtype=np.uint64) for held in (self.items, self.texts))
        order = np.lexsort((texts, items))
        return items[order], texts[order]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Drawn pairs of one setting: items and texts of both sides, by their hashes."""

    name: str
    possible: int
    items: NDArray[np.uint64]
    texts: NDArray[np.uint64]
    """Both of shape (pairs, 2)."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Mean of `first` minus mean of `second`."""

    first: str
    second: str
    difference: float
    z: float | None
    """As in the paper, over pairs; None where no cosine differs from another."""
    p_pairs: float | None
    low: float | None
    high: float | None
    p: float | None
    """These three over questions; None where there are too few."""


def diversity(
    files: Sequence[Path], embedder: Embedder, *, asked: Asked = "question", pairs: int = PAIRS, seed: int = 0,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Means, histograms and comparisons of the settings that have pairs. Raises `UserError` where none has."""
    counted, told = _count(files, asked, progress)
    drawn = [found for found in draw_pairs(*counted, pairs=pairs, seed=seed) if found.possible]
    if not drawn:
        held = sum(len(rows.items) for rows in counted)
        raise UserError(f"{', '.join(map(str, files))}: {held} question(s) make no pair of two different ones")
    texts = _texts(files, asked, {int(text) for found in drawn for text in found.texts.flat}, progress)
    vectors = _embedded(embedder, list(texts.values()), progress)
    place = {text: i for i, text in enumerate(texts)}
    cosines = [_cosines(found, place, vectors) for found in drawn]
    return {
        "schema": "diversity/1",
        "embedder": {
            "name": embedder.name, "sha256": embedder.sha256, "why": embedder.why,
            "papers": embedder.name.rpartition("/")[2] == PAPER,
        },
        "asked": asked,
        "seed": seed,
        "pairs": pairs,
        "files": told,
        "embedded": len(texts),
        "settings": [_setting(found, x) for found, x in zip(drawn, cosines, strict=True)],
        "comparisons": [
            asdict(compare(drawn[i], cosines[i], drawn[k], cosines[k])) for i, k in combinations(range(len(drawn)), 2)
        ],
        "edges": EDGES.tolist(),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- files to pairs


def _count(files: Sequence[Path], asked: Asked, progress: Progress) -> tuple[tuple[Rows, Rows], list[dict[str, Any]]]:
    """Every question by its hashes, those about images first, and what each file held."""
    vision, language = Rows(), Rows()
    told = []
    for file in files:
        n = {"vision": 0, "language": 0, "without_question": 0}
        for question in read_questions(file, asked, lambda done, total: progress("reading", done, total)):
            if not question.text:
                n["without_question"] += 1
                continue
            rows = vision if question.vision else language
            rows.items.append(_hash(question.item))
            rows.texts.append(_hash(question.text))
            n["vision" if question.vision else "language"] += 1
        told.append({"file": str(file), "sha256": file_sha256(file), **n})
    return (vision, language), told


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def draw_pairs(vision: Rows, language: Rows, *, pairs: int, seed: int) -> Iterator[Pairs]:
    """Pairs of rows in each setting, each pair once; all that there are where they are not more than wanted."""
    (v_items, v_texts), (l_items, l_texts) = vision.sorted(), language.sorted()
    for number, (name, items, texts) in enumerate(
        (("vision-vision", v_items, v_texts), ("language-language", l_items, l_texts))
    ):
        ends = np.searchsorted(items, items, side="right")
        partners = len(items) - ends  # rows of one item stand together: a row's partners are those behind its item
        until = np.cumsum(partners)
        total = int(until[-1]) if len(until) else 0
        chosen = _chosen(total, pairs, [seed, number])
        i = np.searchsorted(until, chosen, side="right")
        sides = np.stack([i, ends[i] + chosen - (until[i] - partners[i])], axis=1)
        yield Pairs(name=name, possible=total, items=items[sides], texts=texts[sides])
    total = len(v_items) * len(l_items)
    i, k = np.divmod(_chosen(total, pairs, [seed, 2]), max(1, len(l_items)))
    yield Pairs(
        name="vision-language",
        possible=total,
        items=np.stack([v_items[i], l_items[k]], axis=1),
        texts=np.stack([v_texts[i], l_texts[k]], axis=1),
    )


def _chosen(total: int, pairs: int, seed: Sequence[int]) -> Numbers:
    """Different numbers below `total`."""
    if total <= pairs:
        return np.arange(total, dtype=np.intp)
    return np.random.default_rng(seed).choice(total, pairs, replace=False).astype(np.intp)


def _texts(files: Sequence[Path], asked: Asked, wanted: set[int], progress: Progress) -> dict[int, str]:
    """The drawn questions, each text once."""
    found: dict[int, str] = {}
    for file in files:
        for question in read_questions(file, asked, lambda done, total: progress("reading again", done, total)):
            number = _hash(question.text)
            if number in wanted:
                found.setdefault(number, question.text)
    if len(found) != len(wanted):
        raise UserError(f"{', '.join(map(str, files))}: changed while being read; run it again")
    return dict(sorted(found.items()))


# ---------------------------------------------------------------------------------------------- pairs to comparisons


def _embedded(embedder: Embedder, texts: Sequence[str], progress: Progress) -> Vectors:
    first = embedder.embed(texts[:BATCH])
    vectors = np.empty((len(texts), first.shape[1]), dtype=np.float32)
    vectors[:BATCH] = first
    for start in range(BATCH, len(texts), BATCH):
        progress("embedding", start, len(texts))
        vectors[start : start + BATCH] = embedder.embed(texts[start : start + BATCH])
    if not np.isfinite(vectors).all():
        raise UserError(f"{embedder.name} makes vectors that hold no numbers; take another one")
    return vectors


def _cosines(pairs: Pairs, place: dict[int, int], vectors: Vectors) -> Floats:
    sides = np.array([place[text] for text in pairs.texts.ravel().tolist()], dtype=np.intp).reshape(-1, 2)
    found = np.empty(len(sides))
    for start in range(0, len(sides), BATCH):
        a, b = sides[start : start + BATCH].T
        found[start : start + BATCH] = np.einsum("ij,ij->i", vectors[a], vectors[b])
    return np.clip(found, -1.0, 1.0)


def _setting(pairs: Pairs, cosines: Floats) -> dict[str, Any]:
    mean = float(cosines.mean())
    error = _error([pairs], (cosines - mean) / len(cosines))
    low, high = _bounds(mean, error)
    return {
        "name": pairs.name,
        "n": len(cosines),
        "possible": pairs.possible,
        "questions": len(np.unique(pairs.items)),
        "mean": mean,
        "low": low,
        "high": high,
        "sd": float(cosines.std(ddof=1)) if len(cosines) > 1 else None,
        "histogram": np.histogram(cosines, bins=EDGES)[0].tolist(),
    }


def compare(first: Pairs, x: Floats, second: Pairs, y: Floats) -> Comparison:
    """The paper's z-test of two means, and our interval and test, which know which pairs share a question."""
    difference = float(x.mean() - y.mean())
    over_pairs = math.sqrt(x.var(ddof=1) / len(x) + y.var(ddof=1) / len(y)) if min(len(x), len(y)) > 1 else 0.0
    parts = np.concatenate([(x - x.mean()) / len(x), (y.mean() - y) / len(y)])
    over_questions = _error([first, second], parts)
    low, high = _bounds(difference, over_questions)
    return Comparison(
        first=first.name,
        second=second.name,
        difference=difference,
        z=difference / over_pairs if over_pairs else None,
        p_pairs=_two_sided(difference, over_pairs),
        low=low,
        high=high,
        p=_two_sided(difference, over_questions),
    )


def spread(items: NDArray[np.uint64], parts: Floats) -> float:
    """Standard error of a sum over pairs, where pairs that share an item go up and down together.

    Products of parts are summed over all couples of pairs with an item in common (Aronow, Samii and Assenova 2015,
    "Cluster-robust variance estimation for dyadic data"); never less than if no two pairs had anything in common.
    """
    known, numbers = np.unique(items, return_inverse=True)
    sides = np.sort(numbers.reshape(-1, 2), axis=1)
    by_item = np.bincount(sides.ravel(), weights=np.repeat(parts, 2), minlength=len(known))
    # two pairs of the same two items share both: they were counted once for each
    _, same = np.unique(sides[:, 0] * len(known) + sides[:, 1], return_inverse=True)
    by_pair = float((np.bincount(same, weights=parts) ** 2).sum())
    shared = float((by_item**2).sum()) - by_pair
    return math.sqrt(max(shared, by_pair))


def _error(drawn: Sequence[Pairs], parts: Floats) -> float:
    """`spread`, widened for few items; 0 where there are fewer than `FEWEST` to tell anything by.

    Of all pairs of g items whose likeness is a sum of what each brings along, the square of `spread` is on average
    (g - 2)(g - 3) / (g (g - 1)) of what it estimates.
    """
    g = min(len(np.unique(side)) for pairs in drawn for side in pairs.items.T)
    if g < FEWEST:
        return 0.0
    return spread(np.concatenate([pairs.items for pairs in drawn]), parts) * math.sqrt(
        g * (g - 1) / ((g - 2) * (g - 3))
    )


def _bounds(mean: float, error: float) -> tuple[float | None, float | None]:
    """None where nothing varies: no width is no certainty."""
    reach = _Z * error
    return (mean - reach, mean + reach) if error else (None, None)


def _two_sided(difference: float, error: float) -> float | None:
    return math.erfc(abs(difference / error) / math.sqrt(2)) if error else None


_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
