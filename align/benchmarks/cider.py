"""CIDEr-D: how well a caption agrees with the captions people wrote, without Java.

In: one caption per image, several references per image. Out: a value per image; their mean is the corpus' score.

    >>> candidates = {"a": "A dog runs.", "b": "A red bus."}
    >>> values = cider_d(candidates, {"a": ["A dog is running.", "a dog runs"], "b": ["The bus is red."]})

The metric is that of Vedantam et al. (arXiv:1411.5726, section 5, CIDEr-D): words of up to 4, sigma 6, clipped counts,
times 10. How rare a word is comes from the references of the set that is scored: the same captions have another value
in another set, and a set of one image has the value 0, for no word in it is rarer than another.

Captions are split as the official COCO evaluation does, which starts a Java program for it. Our splitting is written
from what that program puts out, is known by the name `TOKENIZER`, and belongs beside every figure it made: splitting at
blanks alone lowers the score by a third.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from annotate.errors import UserError

TOKENIZER = "ptb-regex/1"

MAX_WORDS = 4
SIGMA = 6.0

# What keeps its full stop. `no.`, `fig.` and `pp.` do so before a number only.
_ABBREVIATIONS = (
    "mr|mrs|ms|messrs|dr|prof|rev|hon|gov|sen|rep|gen|col|sgt|capt|lt|cmdr|pvt|maj|adm|pres|st|mt|ft|vs|cf|dept|ave"
    "|jr|sr|bros|inc|co|ltd|corp|etc|est|univ|blvd|rd|sq|bldg|assn|intl|ext|ph\\.d|al"
    "|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri"
)
_LETTERS = r"[^\W\d_]"
_SUFFIX = r"'(?:s|re|ve|ll|d|m)(?!\w)"  # of she's, they've
_WORD = re.compile(
    rf"""
    [A-Z]+&[A-Z]+(?!\w)                                      # AT&T, but not rock&roll
  | (?i:(?:{_LETTERS}\.){{2,}})                              # U.S., a.m.
  | (?i:(?:{_ABBREVIATIONS})\.(?!\w))                        # St.
  | (?i:(?:no|nos|fig|pp)\.(?=\s*\d))                        # no. 5
  | {_LETTERS}\.(?!\S|\s+(?:The|An?|In|It|There|This)\s)      # George W. Bush, vitamin b.
  | (?i:n't(?!\w)|{_SUFFIX})                                 # the halves of what is split below
  | (?i:'(?:em|til|tis|twas|cause|n'?)(?!\w)|'\d\ds(?!\w))   # 'em, '90s
  | (?i:ma'am|ol'|y'(?=all)|[dlo]'\w+)                       # o'clock
  | -[LR][RSC]B-
  | (?i:\w+?(?=n't(?!\w)))                                   # do|n't
  | \d+:\d\d(?=[AaPp][Mm](?!\w))                            # 10:30|am
  | (?:(?<!\S)[-+]?|)\.?\d+(?:[.,:/]\d+)*(?:[-/]?\w+)*       # 10,000  1.5-inch  7-eleven  -5
  | \w+(?:[-/@_]\w+|\.{_LETTERS}\w*)*                        # t-shirt  black/white  comma.and
  | [!?]+ | \*+ | -+ | \.+
  | [^\s\U00010000-\U0010ffff]                               # all else by itself; pictographs are dropped
    """,
    re.VERBOSE,
)
# As the Java program writes them. Its list of what to remove has brackets in capitals and its words are lowercase:
# so brackets stay, as do `!!!` and `?!`, and we do as it does.
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_REMOVED = frozenset("' ` \" , : ; . ? ! -".split())
_IN_TWO = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
_PLAIN = {
    **dict.fromkeys(("‘", "’", "‹", "›", "&apos;"), "'"),
    **dict.fromkeys(("“", "”", "«", "»", "&quot;"), '"'),
    **dict.fromkeys(("\u200b", "\ufeff"), " "),
    **{"–": "-", "—": "-", "…": " ... ", "\u00ad": "", "&amp;": "&", "&lt;": "<", "&gt;": ">"},
    **{"½": "1/2", "¼": "1/4", "¾": "3/4", "£": "#", "€": "$", "¢": " cents "},
}
_UNUSUAL = re.compile("|".join(map(re.escape, _PLAIN)))


def tokens(caption: str) -> list[str]:
    """The words of a caption as the official COCO evaluation counts them: lowercase, without punctuation."""
    plain = _UNUSUAL.sub(lambda match: _PLAIN[match[0]], caption)
    words: list[str] = []
    for match in _WORD.finditer(plain):
        word = match[0].lower()
        if word in _REMOVED or word.startswith("--") or (word.startswith(".") and set(word) == {"."}):
            continue
        words.extend(_IN_TWO.get(word) or (_WRITTEN.get(word, word),))
    return words


Phrase = tuple[str, ...]


class _Weighed:
    """A caption as one vector per length of phrase: how often each phrase is in it, times how rare it is."""

    def __init__(self, counts: Counter[Phrase], rarity: Mapping[Phrase, float], *, unseen: float) -> None:
        self.vectors: list[dict[Phrase, float]] = [{} for _ in range(MAX_WORDS)]
        for phrase, count in counts.items():
            self.vectors[len(phrase) - 1][phrase] = count * rarity.get(phrase, unseen)
        self.norms = [math.sqrt(sum(weight * weight for weight in vector.values())) for vector in self.vectors]
        # The official program measures the length in pairs of words; it matters for an empty caption only.
        self.length = sum(count for phrase, count in counts.items() if len(phrase) == 2)

    def likeness(self, reference: _Weighed) -> float:
        """Mean over the lengths of phrases of the clipped cosine, times the penalty for another length."""
        cosines = 0.0
        for ours, theirs, norm in zip(self.vectors, reference.vectors, self._norms_with(reference), strict=True):
            if norm:
                shared = ours.keys() & theirs.keys()
                cosines += sum(min(ours[phrase], theirs[phrase]) * theirs[phrase] for phrase in shared) / norm
        difference = self.length - reference.length
        return cosines / MAX_WORDS * math.exp(-difference * difference / (2 * SIGMA * SIGMA))

    def _norms_with(self, other: _Weighed) -> list[float]:
        return [mine * theirs for mine, theirs in zip(self.norms, other.norms, strict=True)]


class CiderD:
    """The references of all images of a set: how rare each phrase is, and what a caption of one of them is worth."""

    def __init__(self, references: Mapping[str, Sequence[str]]) -> None:
        self._phrases = {image: [_phrases(text) for text in texts] for image, texts in references.items()}
        seen_in: Counter[Phrase] = Counter()
        for captions in self._phrases.values():
            seen_in.update(set().union(*captions))
        self._unseen = math.log(max(1, len(self._phrases)))
        self._rarity = {phrase: self._unseen - math.log(n_images) for phrase, n_images in seen_in.items()}

    def value(self, image: str, caption: str) -> float:
        """Mean likeness to the image's references, times 10."""
        ours = self._weighed(_phrases(caption))
        likenesses = [ours.likeness(self._weighed(phrases)) for phrases in self._phrases[image]]
        return 10.0 * math.fsum(likenesses) / len(likenesses)

    def _weighed(self, phrases: Counter[Phrase]) -> _Weighed:
        return _Weighed(phrases, self._rarity, unseen=self._unseen)


def cider_d(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr-D of each image's caption; both mappings are by image, and must be of the same images."""
    _check(candidates, references)
    found = CiderD(references)
    return {image: found.value(image, caption) for image, caption in candidates.items()}


def _phrases(caption: str) -> Counter[Phrase]:
    words = tuple(tokens(caption))
    return Counter(words[i : i + n] for n in range(1, MAX_WORDS + 1) for i in range(len(words) - n + 1))


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    """Another set of images would change how rare each word is, and so every value: nothing is left out silently."""
    uncaptioned = sorted(references.keys() - candidates.keys())
    unknown = sorted(candidates.keys() - references.keys())
    bare = sorted(image for image, captions in references.items() if not captions)
    for images, what in (
        (uncaptioned, "have references but no caption to score"),
        (unknown, "have a caption but no references"),
        (bare, "have an empty list of references"),
    ):
        if images:
            shown = ", ".join(images[:5]) + (", ..." if len(images) > 5 else "")
            raise UserError(f"{len(images)} images {what}: {shown}; CIDEr-D needs the same images on both sides")
