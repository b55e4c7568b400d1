"""The sampler's log-probabilities as the reference's: where the sampled model is the reference, no pass is needed.

    runs/<name>/sample/logprobs.jsonl    ->    Sampled({("91ab…", "The 7 is red."): [-0.1, …], …})

The sampler wrote them with `sample.logprobs: true`, for the tokens that a training reads in the text, and left out
what would be read otherwise. They are those of a forward pass but for rounding (1e-5 in float32).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from annotate.errors import UserError
from annotate.records import PreferencePair


@dataclass(frozen=True)
class Sampled:
    """Per (prompt id, text) the log-probability of every token, and the file that says so."""

    path: Path
    per_token: Mapping[tuple[str, str], array[float]]


def read_sampled(path: Path, pairs: Sequence[PreferencePair], *, model_sha256: str) -> Sampled:
    """Of the completions in `pairs`, those that `model_sha256` itself has sampled."""
    texts = {said.id: (pair.prompt.id, said.text) for pair in pairs for said in (pair.chosen, pair.rejected)}
    found: dict[tuple[str, str], array[float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["completion_id"] in texts and row["model"] == model_sha256 and "per_token" in row:
                found[texts[row["completion_id"]]] = array("f", row["per_token"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}:{number}: no line of log-probabilities; run `sample` again") from None
    return Sampled(path, found)
