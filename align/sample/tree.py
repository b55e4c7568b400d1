"""Many completions of one prompt that share its row of the cache: the prompt is read, and kept, once.

    cache row of a prompt:   [ prompt ............ | a1 b1 c1 d1 | a2 b2 c2 d2 | a3 c3 d3 | ... ]

A step feeds the last token of each completion as one more position of its prompt's row; a mask of four dimensions lets
it see the prompt and the columns of its own completion. Positions are those the completion would have alone, so that
the numbers are those of decoding it alone, up to rounding. A completion that has ended takes no more columns; rows
whose completions have all ended, and columns that nobody sees, leave the cache (`_Rows.tidy`).

Where a kernel takes no such mask, each completion gets a row of its own with the prompt's keys and values repeated, and
the same loop runs with a mask of two dimensions (`form="rows"`).

Axes: B prompts, R rows of the cache, W positions fed per row, L completions that are being written, C columns,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from align.models.draws import SeededDraw
from align.sample.cache import InPlaceCache

Form = Literal["tree", "rows"]
_PROMPT, _NOBODY = -1, -2
"""Owners of a column that are no completion: seen by all, and by none (padding)."""


@dataclass(kw_only=True)
class Written:
    """One completion as tokens."""

    ids: list[int] = field(default_factory=list)
    """Without the end marker."""
    stopped: bool = False
    """It wrote an end marker, rather than reach the limit."""
    logps: list[float] = field(default_factory=list)
    """Where asked for: the log-probability of each token, and last of the end marker after them, written or not."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What all completions of a batch have in common."""

    limit: int
    """Tokens, without the end marker."""
    ends: frozenset[int]
    pad_id: int
    temperature: float = 0.0
    top_p: float = 1.0
    end_id: int | None = None
    """Log-probabilities are kept, and after the last token the one of this marker. None: they are not."""
    steps_ahead: int = 64
    """Room is made for so many steps at a time: a limit of 1024 tokens that few completions reach costs nothing."""


@torch.inference_mode()
def decode(
    model: Any, batch: Mapping[str, torch.Tensor], seeds: Sequence[Sequence[int]], writing: Writing, form: Form
) -> list[list[Written]]:
    """One completion for each seed of each prompt of the (left-padded) batch. Temperature 0 needs no seed, but one
    entry per completion all the same.
    """
    n = len(seeds[0])
    pen = _Pen([seed for row in seeds for seed in row], writing)
    rows, scores_BV = _read(model, batch, n, writing, form)
    scores_LV = scores_BV.repeat_interleave(n, dim=0)
    while True:
        pen.write(scores_LV, rows.lanes)
        if not rows.end(pen.done):
            break
        rows.tidy(min(writing.steps_ahead, writing.limit - pen.steps + 1))
        scores_LV = rows.feed(model, pen.last)
    return [pen.written[b * n : (b + 1) * n] for b in range(len(seeds))]


class _Pen:
    """Chooses tokens and remembers them; a lane is a completion, counted over the whole batch."""

    def __init__(self, seeds: Sequence[int], writing: Writing) -> None:
        self.writing = writing
        self.draw = SeededDraw(seeds, writing.temperature, writing.top_p) if writing.temperature > 0 else None
        self.written = [Written() for _ in seeds]
        self.done = [False] * len(seeds)
        self.last = [writing.pad_id] * len(seeds)
        """The token that each has written last."""
        self.steps = 0

    def write(self, scores_LV: torch.Tensor, lanes: Sequence[int]) -> None:
        """One more token of each of these lanes, whose scores these are."""
        scores_LV = scores_LV.float()
        picked_L = scores_LV.argmax(dim=-1) if self.draw is None else self.draw.pick(scores_LV, lanes)
        logps = ends = [0.0] * len(lanes)
        if self.writing.end_id is not None:
            norm_L = scores_LV.logsumexp(dim=-1)
            logps = (scores_LV.gather(1, picked_L[:, None])[:, 0] - norm_L).tolist()
            ends = (scores_LV[:, self.writing.end_id] - norm_L).tolist()
        for lane, token, logp, end_logp in zip(lanes, picked_L.tolist(), logps, ends, strict=True):
            self._note(lane, token, logp, end_logp)
        self.steps += 1

    def _note(self, lane: int, token: int, logp: float, end_logp: float) -> None:
        written, keeps = self.written[lane], self.writing.end_id is not None
        full = len(written.ids) == self.writing.limit  # only the end marker's log-probability was still wanted
        if full or token in self.writing.ends:
            written.stopped = not full
            self.done[lane] = True
            if keeps:
                written.logps.append(end_logp)
            return
        written.ids.append(token)
        self.last[lane] = token
        if keeps:
            written.logps.append(logp)
        self.done[lane] = len(written.ids) == self.writing.limit and not keeps


def _read(
    model: Any, batch: Mapping[str, torch.Tensor], n: int, writing: Writing, form: Form
) -> tuple[_Rows, torch.Tensor]:
    """The prompts read once: the rows of the cache, and the scores of each prompt's next token."""
    mask_BC = batch["attention_mask"]
    steps = min(writing.steps_ahead, writing.limit)
    config = model.config.get_text_config()
    cache = InPlaceCache(config.num_hidden_layers, room=steps * n if form == "tree" else 0)
    positions_BC = (mask_BC.cumsum(1) - 1).clamp(min=0)
    out = model(**batch, position_ids=positions_BC, past_key_values=cache, use_cache=True, logits_to_keep=1)
    owner_BC = torch.where(mask_BC.bool(), _PROMPT, _NOBODY)
    next_B = mask_BC.sum(1)
    lanes = [list(range(b * n, (b + 1) * n)) for b in range(len(mask_BC))]
    if form == "rows" and n > 1:
        every_R = torch.arange(len(lanes), device=mask_BC.device).repeat_interleave(n)
        columns_RC = torch.arange(mask_BC.shape[1], device=mask_BC.device).expand(len(every_R), -1)
        cache.rearrange(every_R, columns_RC, steps)
        owner_BC, next_B = owner_BC[every_R], next_B[every_R]
        lanes = [[lane] for row in lanes for lane in row]
    return _Rows(model, cache, owner_BC, next_B, lanes, writing.pad_id, form), out.logits[:, -1]


class _Rows:
    """The cache, and who is to see what of it."""

    def __init__(
        self,
        model: Any,
        cache: InPlaceCache,
        owner_RC: torch.Tensor,
        next_R: torch.Tensor,
        lanes: list[list[int]],
        pad_id: int,
        form: Form,
    ) -> None:
        self.cache, self.form, self.pad_id = cache, form, pad_id
        self.owner_RC = owner_RC
        """Which completion a column belongs to."""
        self.next_R = next_R
        """Position of the next token."""
        self.rows = lanes
        """The lanes of each row that are still being written."""
        self.additive = model.config.get_text_config()._attn_implementation == "eager"
        self.dtype = model.dtype

    @property
    def lanes(self) -> list[int]:
        """All that are being written, in the order of the scores of a step."""
        return [lane for row in self.rows for lane in row]

    def end(self, done: Sequence[bool]) -> bool:
        """Take out the lanes that are done; returns whether any is left."""
        self.rows = [[lane for lane in row if not done[lane]] for row in self.rows]
        return any(self.rows)

    def tidy(self, steps: int) -> None:
        """Let go of rows and columns that nobody needs, once they are many or their room is wanted; then there is room
        for so many steps.
        """
        width = max(map(len, self.rows))
        idle = sum(not row for row in self.rows)
        if self.cache.free() >= width and idle * 8 < len(self.rows):
            return
        device = self.owner_RC.device
        kept = [r for r, row in enumerate(self.rows) if row]
        rows_R = torch.tensor(kept, device=device)
        owner_RC = self.owner_RC[rows_R]
        self.rows = [self.rows[r] for r in kept]
        needed_RC = (owner_RC == _PROMPT) | (owner_RC[:, :, None] == self._fed(width)[:, None]).any(2)
        needed_RC &= owner_RC != _NOBODY
        most = int(needed_RC.sum(1).max())
        # Needed columns last, in their order: distances between them, which windowed attention counts, stay true.
        columns_RC = needed_RC.int().argsort(dim=1, stable=True)[:, -most:]
        self.cache.rearrange(rows_R, columns_RC, steps * width)
        self.owner_RC = torch.where(needed_RC, owner_RC, _NOBODY).gather(1, columns_RC)
        self.next_R = self.next_R[rows_R]

    def feed(self, model: Any, last: Sequence[int]) -> torch.Tensor:
        """Read the last token of each lane: scores of the next ones, in the order of `lanes`."""
        width = max(map(len, self.rows))
        device = self.owner_RC.device
        fed_RW = self._fed(width)
        ids_RW = torch.tensor(
            [[last[lane] for lane in row] + [self.pad_id] * (width - len(row)) for row in self.rows], device=device
        )
        self.owner_RC = torch.cat([self.owner_RC, fed_RW], dim=1)
        out = model(
            input_ids=ids_RW,
            attention_mask=self._mask(fed_RW),
            position_ids=self.next_R[:, None].expand(-1, width),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.next_R = self.next_R + 1
        places = [r * width + w for r, row in enumerate(self.rows) for w in range(len(row))]
        return out.logits.flatten(0, 1)[torch.tensor(places, device=device)]

    def _fed(self, width: int) -> torch.Tensor:
        """Which lane each fed position is of; rows with fewer than others are filled up."""
        filled = [row + [_NOBODY] * (width - len(row)) for row in self.rows]
        return torch.tensor(filled, device=self.owner_RC.device)

    def _mask(self, fed_RW: torch.Tensor) -> torch.Tensor:
        if self.form == "rows":
            return (self.owner_RC != _NOBODY).long()
        owner_R1C = self.owner_RC[:, None]
        seen_R1WC = ((owner_R1C == _PROMPT) | (owner_R1C == fed_RW[:, :, None]))[:, None]
        if not self.additive:
            return seen_R1WC
        return torch.zeros_like(seen_R1WC, dtype=self.dtype).masked_fill(~seen_R1WC, torch.finfo(self.dtype).min)
