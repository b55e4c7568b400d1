"""Texts as unit vectors: a sentence embedder where there is one, else counts of words and letters.

MLAN (section 3.4) embeds with all-MiniLM-L6-v2. Without it (no package, no weights, no hub) similarities can still be
compared with each other, though not with the paper's: two texts are then alike by what they are written with, not by
what they mean. Whatever is shown names its embedder first.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from annotate.errors import UserError

Vectors = NDArray[np.float32]
PAPER = "all-MiniLM-L6-v2"
NGRAMS = "ngrams"
WIDTH = 512
"""Columns for words, and as many for letters: two texts without anything in common have a cosine of 0 ± 0.03."""
_WORD = re.compile(r"\w+")
_PRIME, _STIR = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)


class Embedder(Protocol):
    """What texts are compared by."""

    @property
    def name(self) -> str:
        """As it is told and recorded."""

    @property
    def sha256(self) -> str:
        """Of its weights; empty where it has none."""

    @property
    def why(self) -> str:
        """Why it is this one, where it was not asked for."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """A row of length 1 for each text."""


@dataclass(frozen=True)
class NGrams:
    """Words and runs of 3 to 5 letters, counted and hashed; a cosine is the mean of that of both."""

    why: str = ""
    name: str = "word and letter n-grams"
    sha256: str = ""

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), 2 * WIDTH), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            plain = f" {' '.join(unicodedata.normalize('NFKC', text).casefold().split())} "
            words = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(plain)], dtype=np.uint64)
            row[:WIDTH], row[WIDTH:] = _counted(words), _counted(_letters(plain))
            row /= np.linalg.norm(row)
        return vectors


def embedder_named(name: str | None, tell: Callable[[str], None]) -> Embedder:
    """The embedder asked for; None: the paper's, or n-grams saying why. Raises `UserError` for one that is not there.

    `tell` is given what takes time, before it is begun.
    """
    if name == NGRAMS:
        return NGrams()
    from align.models.sentences import load_sentences

    try:
        return load_sentences(name or PAPER, tell)
    except UserError as error:
        if name:
            raise
        return NGrams(why=str(error))


def _letters(text: str) -> NDArray[np.uint64]:
    """A number for every run of 3, 4 and 5 letters, blanks included."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    found = []
    for size in (3, 4, 5):
        if len(codes) >= size:
            made = np.zeros(len(codes) - size + 1, dtype=np.uint64)
            for place in range(size):
                made = made * _PRIME + codes[place : place + len(made)]
            found.append(made)
    return np.concatenate(found)


def _counted(numbers: NDArray[np.uint64]) -> Vectors:
    """Counts in `WIDTH` columns, of length 1; half of the numbers count down, so that collisions cancel out."""
    stirred = numbers * _STIR
    stirred ^= stirred >> np.uint64(29)
    signs = 1.0 - 2.0 * ((stirred >> np.uint64(20)) & np.uint64(1)).astype(np.float64)
    columns = (stirred % np.uint64(WIDTH)).astype(np.intp)
    counted = np.bincount(columns, weights=signs, minlength=WIDTH)
    length = np.linalg.norm(counted)
    return (counted / length if length else counted).astype(np.float32)
