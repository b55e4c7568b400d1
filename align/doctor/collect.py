"""Records as columns: what the doctor keeps of each, and nothing more.

    collector = Collector()
    for record in read_file(path): collector.add(record)      # Prompt, Annotated, PreferencePair, Example, in any order
    tables = collector.tables()                                # numpy arrays, sorted: the input's order is gone

Held in memory, per record 30 bytes, per completion 40, per rating 30 and 4 for each attribute, per pair 100, per
distinct word of the pairs about 300; no record and no text: 250 MB for 250,000 prompts with four rated completions and
a pair each, and 490 MB at the peak, when columns are sorted. Ids are kept as the 64 bits that their 16 hex digits are;
other ids, and texts, as 64-bit hashes.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from align.overlap import words
from annotate.records import Annotated, Annotation, Completion, Example, PreferencePair, Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Column = NDArray[Any]
    Keys = NDArray[np.uint64]
    Floats = NDArray[np.float64]

KINDS = ("prompts", "annotated", "pairs", "examples")
LONGEST_WORD = 40
HUMAN = "human"
"""Backend of annotations by people."""
YES, NO = 1, -1
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_PREFERENCES = {"first": 1, "second": -1, "tie": 0}


def key_of(name: str) -> int:
    """64 bits for an id: those its 16 hex digits are, or a hash."""
    if len(name) == 16:
        try:
            return int(name, 16)
        except ValueError:
            pass
    return _hash(name)


def name_of(key: int) -> str:
    """The id again."""
    return f"{int(key):016x}"


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _folded(text: str) -> str:
    """Without differences in spacing and case."""
    return " ".join(text.casefold().split())


def yes_or_no(text: str) -> int:
    """1 where an answer begins with yes, -1 with no, 0 otherwise."""
    found = _YES_NO.match(text)
    return 0 if found is None else YES if found[1].lower() == "yes" else NO


class _Rows:
    """Columns that grow: a letter of `array` for each."""

    def __init__(self, **kinds: str) -> None:
        self.columns: dict[str, array[Any]] = {name: array(kind) for name, kind in kinds.items()}

    def add(self, *values: float) -> None:
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)

    def table(self, **given: Mapping[str, int]) -> dict[str, Column]:
        """The columns as arrays, rows sorted by the first column, then the second, and so on.

        `given` names columns of numbers that were handed out in the order of arrival: they become places in the
        alphabet, so that nothing of that order is left.
        """
        import numpy as np

        # each column is let go of as soon as it is copied
        made = {name: np.array(self.columns.pop(name)) for name in list(self.columns)}
        for column, names in given.items():
            place = {name: i for i, name in enumerate(sorted(names))}
            made[column] = np.array([place[name] for name in names], dtype=np.intp)[made[column]]
        rows = np.lexsort(list(made.values())[::-1])
        return {name: made.pop(name)[rows] for name in list(made)}


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All columns of all records; each table is a dictionary of arrays of one length."""

    records: Mapping[str, Column]
    """kind (place in KINDS), prompt, folded (hash of the folded texts with the images), source, images, polarity."""
    completions: Mapping[str, Column]
    """prompt, completion, folded, chars, words, yes, polarity; each completion once."""
    ratings: Mapping[str, Column]
    """prompt, annotation, slot, size, completion; each rating once. Size is 0 where the order is none that was shown:
    people's ratings come from tables (HelpSteer), a row for each completion, whose order says nothing."""
    scores: Mapping[str, Floats]
    """Attribute -> the score of each rating, NaN where it was not given."""
    votes: Mapping[str, Column]
    """prompt, annotation, vote and longer: 1 first, -1 second, 0 neither; one row per pairwise annotation."""
    pairs: Mapping[str, Column]
    """prompt, chosen, rejected, texts and folded texts of both, chars and words of both, margin, yes of both, ..."""
    differences: Mapping[str, Floats]
    """Attribute -> chosen minus rejected of each pair, by the scores that pairs of ours carry; NaN without."""
    sources: Sequence[str]
    polarities: Sequence[str]
    vocabulary: Mapping[str, Sequence[int]]
    """Word -> occurrences in chosen and rejected, pairs with it in chosen and in rejected."""
    counts: Mapping[str, int]
    """images, images_unopened, annotations."""

    @cached_property
    def prompts(self) -> Keys:
        """Every prompt once, sorted."""
        import numpy as np

        return np.unique(self.records["prompt"])

    def n(self, kind: str) -> int:
        """How many records of a kind there were."""
        return int((self.records["kind"] == KINDS.index(kind)).sum())


class Collector:
    """Takes records, keeps columns."""

    def __init__(self) -> None:
        self.records = _Rows(prompt="Q", kind="B", folded="Q", source="I", images="I", polarity="I")
        self.completions = _Rows(prompt="Q", completion="Q", folded="Q", chars="I", words="I", yes="b", polarity="I")
        self.ratings = _Rows(prompt="Q", annotation="Q", slot="I", size="I", completion="Q")
        self.scores: dict[str, array[float]] = {}
        self.votes = _Rows(prompt="Q", annotation="Q", vote="b", longer="b")
        self.pairs = _Rows(
            prompt="Q", id="Q", chosen="Q", rejected="Q", chosen_text="Q", rejected_text="Q", chosen_folded="Q",
            rejected_folded="Q", chosen_chars="I", rejected_chars="I", chosen_words="I", rejected_words="I",
            margin="d", chosen_yes="b", rejected_yes="b", polarity="I",
        )  # fmt: skip
        self.differences: dict[str, array[float]] = {}
        self.sources: dict[str, int] = {}
        self.polarities: dict[str, int] = {"": 0}
        self.words: tuple[Counter[str], ...] = (Counter(), Counter(), Counter(), Counter())
        """Occurrences in chosen and in rejected, pairs with it in chosen and in rejected."""
        self.images: set[int] = set()
        self.unopened: set[int] = set()
        self.n_annotations = self.n_records = 0

    def add(self, record: Prompt | Annotated | PreferencePair | Example) -> None:
        """Keep what is counted of a record."""
        self.n_records += 1
        prompt = record if isinstance(record, Prompt) else record.prompt
        key, polarity = key_of(prompt.id), self._polarity(prompt)
        if isinstance(record, Annotated):
            self._add_prompt("annotated", prompt, key, polarity)
            self._add_annotated(record, key, polarity)
        elif isinstance(record, PreferencePair):
            self._add_prompt("pairs", prompt, key, polarity)
            self._add_pair(record, key, polarity)
        else:
            self._add_prompt("prompts" if record is prompt else "examples", prompt, key, polarity)

    def _polarity(self, prompt: Prompt) -> int:
        said = prompt.meta.get("polarity")
        name = "" if said in (None, "unknown") else str(said)
        return self.polarities.setdefault(name, len(self.polarities))

    def _add_prompt(self, kind: str, prompt: Prompt, key: int, polarity: int) -> None:
        hashes = [image.sha256 for image in prompt.images]
        for sha256 in hashes:
            (self.unopened if sha256.startswith("path:") else self.images).add(_hash(sha256))
        folded = _hash("\x1f".join([*(_folded(turn.text) for turn in prompt.turns), *hashes]))
        source = self.sources.setdefault(prompt.source, len(self.sources))
        self.records.add(key, KINDS.index(kind), folded, source, len(hashes), polarity)

    def _add_annotated(self, record: Annotated, key: int, polarity: int) -> None:
        for c in record.completions:
            self.completions.add(
                key, key_of(c.id), _hash(_folded(c.text)), len(c.text), len(c.text.split()), yes_or_no(c.text), polarity
            )
        self.n_annotations += len(record.annotations)
        lengths = {c.id: len(c.text) for c in record.completions}
        for annotation in record.annotations:
            self._add_annotation(annotation, key, lengths)

    def _add_annotation(self, annotation: Annotation, key: int, lengths: Mapping[str, int]) -> None:
        number = _hash(f"{annotation.id}\x1f{annotation.pass_index}")
        if annotation.preference is not None:
            first, second = (lengths[name] for name in annotation.shown_order)
            self.votes.add(key, number, _PREFERENCES[annotation.preference], (first > second) - (first < second))
        size = 0 if annotation.backend == HUMAN else len(annotation.shown_order)
        for rating in annotation.ratings:
            slot = annotation.shown_order.index(rating.completion_id)
            before = len(self.ratings.columns["prompt"])
            self.ratings.add(key, number, slot, size, key_of(rating.completion_id))
            _append(self.scores, rating.scores, "f", before)

    def _add_pair(self, pair: PreferencePair, key: int, polarity: int) -> None:
        two: tuple[Completion, Completion] = (pair.chosen, pair.rejected)
        margin = float("nan") if pair.margin is None else pair.margin
        self.pairs.add(
            key, key_of(pair.id),
            *(key_of(c.id) for c in two), *(_hash(c.text) for c in two), *(_hash(_folded(c.text)) for c in two),
            *(len(c.text) for c in two), *(len(c.text.split()) for c in two),
            margin, *(yes_or_no(c.text) for c in two), polarity,
        )  # fmt: skip
        _append(self.differences, _differences(pair), "d", len(self.pairs.columns["id"]) - 1)
        for side, completion in enumerate(two):
            found = words(completion.text)
            self.words[side].update(found)
            self.words[2 + side].update(set(found))

    def tables(self) -> Tables:
        """What was collected, sorted, copies of one completion or rating left out. Leaves the collector empty."""
        import numpy as np

        names, differing = sorted(self.scores), sorted(self.differences)
        ratings = _once(_with(self.ratings, self.scores).table(), "prompt", "annotation", "slot", "completion")
        pairs = _with(self.pairs, self.differences).table(polarity=self.polarities)
        return Tables(
            records=self.records.table(source=self.sources, polarity=self.polarities),
            completions=_once(self.completions.table(polarity=self.polarities), "prompt", "completion"),
            ratings={name: column for name, column in ratings.items() if not name.startswith("=")},
            scores={name: ratings[f"={name}"].astype(np.float64) for name in names},
            votes=_once(self.votes.table(), "prompt", "annotation"),
            pairs={name: column for name, column in pairs.items() if not name.startswith("=")},
            differences={name: pairs[f"={name}"] for name in differing},
            sources=sorted(self.sources),
            polarities=sorted(self.polarities),
            vocabulary={
                word: tuple(counter[word] for counter in self.words)
                for word in sorted(self.words[0].keys() | self.words[1].keys())
                if len(word) <= LONGEST_WORD
            },
            counts={
                "images": len(self.images),
                "images_unopened": len(self.unopened),
                "annotations": self.n_annotations,
            },
        )


def _append(columns: dict[str, array[float]], row: Mapping[str, float], kind: str, before: int) -> None:
    """One more row of columns that come up as their names do: NaN where a name is not in the row."""
    for name in row.keys() - columns.keys():
        columns[name] = array(kind, [float("nan")]) * before
    for name, column in columns.items():
        column.append(row.get(name, float("nan")))


def _with(rows: _Rows, more: dict[str, array[float]]) -> _Rows:
    """Rows with further columns, marked by "="; both are let go of."""
    made = _Rows()
    made.columns = rows.columns | {f"={name}": more[name] for name in sorted(more)}
    rows.columns = {}
    more.clear()
    return made


def _differences(pair: PreferencePair) -> dict[str, float]:
    """Chosen minus rejected, of `{"scores": {"chosen": {"helpfulness": 4.0, …}, "rejected": {…}}}` in its meta."""
    scores = pair.meta.get("scores")
    chosen, rejected = (scores.get(side) if isinstance(scores, Mapping) else None for side in ("chosen", "rejected"))
    if not isinstance(chosen, Mapping) or not isinstance(rejected, Mapping):
        return {}
    return {
        name: round(value - rejected[name], 6)
        for name, value in chosen.items()
        if isinstance(value, int | float) and isinstance(rejected.get(name), int | float)
    }


def _once(table: dict[str, Column], *names: str) -> dict[str, Column]:
    """The first of the rows that are equal in the named columns, which the table is sorted by."""
    import numpy as np

    different: Iterable[Column] = [table[name][1:] != table[name][:-1] for name in names]
    n = len(table[names[0]])
    keep = np.ones(n, dtype=bool)
    if n:
        keep[1:] = np.logical_or.reduce(list(different))
    return {name: column[keep] for name, column in table.items()}
