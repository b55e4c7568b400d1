r"""The reference's log-probabilities, computed once: per completion, one number per token, kept on disk.

    runs/<name>/dpo/…/reference/3f09c1d2a4b5c6d7.jsonl

    {"key":"made by","seconds":0.0,"line":{"model":"5c…","processor":"77…","template":"02…","precision":"float32",…}}
    {"key":"91ab…","seconds":0.41,"line":{"fe12…":"AACAvw…","0c77…":"…"}}    a prompt's completions, float32 in base64

A file is named by what made its numbers and says so in its first line; a completion by the turns of its prompt, the
content of its images and its text. So a number is found again by every run that would compute the same, and by no
other: other epochs, learning rates and betas, more pairs of the same prompts. Numbers per token serve every loss of
TRL, `ld_alpha` included, whose sums depend on the pair that a completion is in.

The file is a journal: a kill leaves at most half a line at its end, which is cut off, and its batch is done again.
"""

from __future__ import annotations

import base64
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.digest import file_sha256
from align.train.lora_rows import Size, Spoken, TrainRow
from align.train.sampled import Sampled
from annotate.errors import UserError
from annotate.journal import Journal, JournalInUse, read_journal
from annotate.records import sha256_of
from annotate.stage import Progress

if TYPE_CHECKING:
    import torch

HEAD = "made by"
TELL_SECONDS = 5.0
WAIT_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """What decides the numbers, beside the rows."""

    model: str
    """sha256 over weights, configuration and tokenizer."""
    adapter: str
    """Of the reference itself; empty: the plain model."""
    processor: str
    """What makes pixels of an image file."""
    template: str
    precision: str
    """Of the weights, and of the arithmetic where that is another."""
    software: str
    """Versions of what computes."""

    @property
    def name(self) -> str:
        return sha256_of(asdict(self))[:16]


@dataclass(frozen=True)
class Asked:
    """A prompt and its completions, each once. Nothing is read or encoded before its turn has come."""

    row: TrainRow
    """Any row of the prompt."""
    texts: tuple[str, ...]
    tokens: int


@dataclass(frozen=True)
class Crew:
    """The processes of a training; one where nothing is said."""

    rank: int = 0
    size: int = 1
    gather: Callable[[list[Any]], list[Any]] = lambda found: found
    """The lists of all processes as one, in the order of their ranks."""


_Batch = list[list[tuple[TrainRow, str, str]]]
"""Per prompt its completions: any row of the prompt, the text, the key."""

Score = Callable[[Sequence[tuple[TrainRow, str]]], "list[array[float]]"]
"""The reference's log-probability of every token of each completion."""


class ReferenceCache:
    """The numbers of one reference, in `folder`. Hand it to the collator: it is TRL's `ref_*_logps` of a batch."""

    def __init__(self, folder: Path, made_by: MadeBy, *, ld_alpha: float | None = None) -> None:
        self.path = folder / f"{made_by.name}.jsonl"
        self._made_by = made_by
        self._ld_alpha = ld_alpha
        self._images: dict[Path, str] = {}
        self._known: dict[str, array[float]] = {}
        with _told(self.path):
            self._learn(read_journal(self.path))

    def _learn(self, lines: Mapping[str, Mapping[str, Any]]) -> None:
        self._check_head(lines)
        for digest, line in lines.items():
            if digest == HEAD:
                continue
            try:
                if digest != sha256_of(line):
                    raise ValueError("a line is not as it was written")
                self._known |= {key: array("f", base64.b64decode(text)) for key, text in line.items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(f"{self.path}: damaged ({error}); delete the file, it is computed anew") from None

    def _check_head(self, lines: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse numbers of another origin, saying which."""
        if not lines:
            return
        told, ours = lines.get(HEAD, {}), asdict(self._made_by)
        other = [
            f"{name} {told.get(name, 'unknown')!r}, here {ours[name]!r}"
            for name in ours
            if told.get(name) != ours[name]
        ]
        if other:
            raise UserError(
                f"{self.path}: reference log-probabilities of another origin ({'; '.join(other)}); delete the file, or "
                "name another reference_folder"
            )

    def key(self, row: TrainRow, text: str) -> str:
        for path in row.images:
            if path not in self._images:
                self._images[path] = file_sha256(path)
        turns = [[turn.role, turn.text] for turn in row.prompt.turns]
        return sha256_of([turns, [self._images[path] for path in row.images], text])

    def take(self, rows: Sequence[tuple[TrainRow, Size]], sampled: Sampled) -> None:
        """Know what the sampler knows, and the file does not. It stays where it is."""
        for row, size in rows:
            for text, n_tokens in zip(row.completions, size.completions, strict=True):
                values = sampled.per_token.get((row.prompt.id, text))
                if values is not None and len(values) == n_tokens:
                    self._known.setdefault(self.key(row, text), values)

    def fill(
        self, asked: Sequence[Asked], score: Score, *, size: int, progress: Progress, crew: Crew | None = None
    ) -> int:
        """Compute what is missing; returns how many completions that was.

        Batches are made of all that is asked, whatever is known already, of up to `size` completions: so the numbers
        of a completion do not depend on when the run was killed. Several processes take turns at the batches, tell
        each other, and the first one writes. Where another run writes to the same file, this one waits for it.
        """
        crew = crew or Crew()
        batches = _batches([[(one.row, text, self.key(one.row, text)) for text in one.texts] for one in asked], size)
        if not any(crew.gather([bool(self._missing(batches))])):  # the same answer for all who may have read it by now
            return 0
        n_new, told = 0, time.monotonic()
        with self._journal(progress, write=crew.rank == 0) as journal:
            keys = {key for batch in batches for one in batch for *_, key in one}
            own = {key: self._known[key] for key in keys & self._known.keys()}
            for known in crew.gather([own] if crew.rank == 0 else []):
                self._known |= known
            missing = self._missing(batches)
            for first in range(0, len(missing), crew.size):
                turn = missing[first + crew.rank : first + crew.rank + 1]  # none where the last round is short
                scored = [self._score(batch, score) for batch in turn]
                for found in crew.gather([found for lines in scored for found in lines]):
                    new = {key: values for key, values in found.items() if key not in self._known}
                    if new and journal is not None:
                        line = {key: base64.b64encode(values.tobytes()).decode("ascii") for key, values in new.items()}
                        journal.append(sha256_of(line), line)
                    self._known |= new
                    n_new += len(new)
                if time.monotonic() - told >= TELL_SECONDS:
                    told = time.monotonic()
                    progress(min(first + crew.size, len(missing)), len(missing), "log-probabilities of the reference")
        return n_new

    def _missing(self, batches: Sequence[_Batch]) -> list[_Batch]:
        return [batch for batch in batches if any(key not in self._known for one in batch for *_, key in one)]

    @contextmanager
    def _journal(self, progress: Progress, *, write: bool) -> Iterator[Journal | None]:
        """The file to write to, and in memory what it holds by now. None for who does not write."""
        if not write:
            yield None
            return
        with _told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            journal = self._locked(progress)
        try:
            self._learn(journal.lines)
            if not journal.lines:
                journal.append(HEAD, asdict(self._made_by))
            yield journal
        finally:
            journal.__exit__(None, None, None)

    def _locked(self, progress: Progress) -> Journal:
        while True:
            try:
                return Journal(self.path).__enter__()
            except JournalInUse:
                progress(0, 1, f"waiting for another run, which writes to {self.path}")
                time.sleep(WAIT_SECONDS)

    @staticmethod
    def _score(batch: Sequence[Sequence[Any]], score: Score) -> list[dict[str, array[float]]]:
        """Per prompt of the batch, the numbers of its completions by their keys."""
        scored = iter(score([(row, text) for one in batch for row, text, _ in one]))
        return [{key: next(scored) for *_, key in one} for one in batch]

    def per_token(self, row: TrainRow, text: str, n_tokens: int) -> array[float]:
        found = self._known[self.key(row, text)]
        if len(found) != n_tokens:
            raise UserError(f"{self.path}: {len(found)} numbers for {n_tokens} tokens; delete the file")
        return found

    def __call__(self, rows: Sequence[TrainRow], sequences: Sequence[Spoken]) -> dict[str, torch.Tensor]:
        """What TRL's `compute_ref_log_probs` gives for a batch: the chosen of all rows, then the rejected."""
        import torch

        # laid out and summed as the policy's are, so that equal numbers make equal sums
        width = max(len(row.ids) for row in sequences) - 1
        per_token, shared = torch.zeros(len(sequences), width), torch.zeros(len(sequences), width, dtype=torch.bool)
        half = len(sequences) // 2
        for n, said in enumerate(sequences):
            start, length = len(said.prompt.ids) - 1, len(said.after)
            row, side = rows[n % half], n // half
            per_token[n, start : start + length] = torch.tensor(self.per_token(row, row.completions[side], length))
            shared[n, start : start + min(length, len(sequences[n - half].after))] = True
        sums = per_token.sum(dim=1)
        if self._ld_alpha is not None:
            common = (per_token * shared).sum(dim=1)
            sums = common + self._ld_alpha * (per_token * ~shared).sum(dim=1)
        return {"ref_chosen_logps": sums[:half], "ref_rejected_logps": sums[half:]}


def asked_of(rows: Sequence[tuple[TrainRow, Size]]) -> list[Asked]:
    """Each prompt with its completions, every one once; the longest first, since they need most memory."""
    groups: dict[Any, tuple[TrainRow, int, dict[str, int]]] = {}
    for row, size in rows:
        texts = groups.setdefault((row.prompt.id, row.images), (row, size.prompt, {}))[2]
        texts.update(zip(row.completions, size.completions, strict=True))
    found = [Asked(row, tuple(texts), prompt + sum(texts.values())) for row, prompt, texts in groups.values()]
    return sorted(found, key=lambda one: -one.tokens)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the file system refuses is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: the reference's log-probabilities cannot be kept there ({error.strerror or error}); name another "
            "reference_folder"
        ) from None


def _batches(groups: Sequence[list[tuple[TrainRow, str, str]]], size: int) -> list[_Batch]:
    """Groups in a row, of up to `size` completions, but at least one group."""
    batches: list[_Batch] = []
    held = 0
    for group in groups:
        if not batches or held + len(group) > size:
            batches.append([])
            held = 0
        batches[-1].append(group)
        held += len(group)
    return batches
