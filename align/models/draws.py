"""Draws that depend on nothing but their own seed: one generator per row, so that batch mates play no part.

SeededDraw([seed_of("5c…"), seed_of("91…")], temperature=0.7, top_p=1.0)     a logits processor for `generate`
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(key: str) -> int:
    """A seed for torch: 63 bits of the key's hash."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


class SeededDraw:
    """A logits processor that makes the draw itself: the token in whose share of the cumulated probabilities a uniform
    number falls, the numbers coming from one generator per row.

    Returns scores in which only the drawn token is possible, so that what samples from them has no choice left. The
    numbers are made on the CPU, the same on every device, and all is in double precision: with the 24 bits of single
    precision a long-tailed vocabulary would be rounded off.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        import torch

        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        drawn_B1 = self.pick(scores, range(len(self.generators)))[:, None]
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn_B1, 0.0)

    def pick(self, scores: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The drawn tokens; `rows` says which generator each row of scores draws from."""
        import torch

        logits_BV = scores.double() / self.temperature
        if self.top_p < 1:
            logits_BV = nucleus(logits_BV, self.top_p)
        cumulated_BV = logits_BV.softmax(dim=-1).cumsum(dim=-1)
        uniform_B1 = torch.cat([torch.rand(1, 1, generator=self.generators[r], dtype=torch.float64) for r in rows])
        # times the last sum, which rounding leaves a little off 1
        mark_B1 = uniform_B1.to(scores.device) * cumulated_BV[:, -1:]
        return torch.searchsorted(cumulated_BV, mark_B1, right=True).clamp(max=scores.shape[-1] - 1)[:, 0]


def nucleus(logits_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Only the fewest most likely tokens whose probabilities reach `top_p` (arXiv:1904.09751); the rest is -inf."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
    probability_BV = sorted_BV.softmax(dim=-1)
    before_BV = probability_BV.cumsum(dim=-1) - probability_BV
    outside_BV = (before_BV >= top_p).scatter(1, order_BV, before_BV >= top_p)
    return logits_BV.masked_fill(outside_BV, float("-inf"))
