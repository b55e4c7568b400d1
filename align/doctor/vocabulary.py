"""Words by which chosen and rejected could be told apart without looking at the question.

Log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008): each
word's odds in chosen against rejected, both drawn towards its frequency in all pairs, as a z-score. The prior weighs
as many words as `PRIOR` says. A z-score takes words to come independently; they come in bursts, so the number of pairs
that hold the word is told beside it.

    {"word": "however", "z": 6.1, "log_odds": 1.2, "chosen": 120, "rejected": 31, "chosen_pairs": 96,
     "rejected_pairs": 30}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from align.calibration.figure import left_out, plain
from align.doctor.size import NO_PAIRS

if TYPE_CHECKING:
    from align.doctor.collect import Tables
    from align.stats import Floats

PRIOR = 1000.0
SHOWN = 20
FEWEST_PAIRS = 5
"""In how many pairs, both sides together, a word must stand to be shown."""
TELLING = 3.0
"""z beyond which a word is shown: about one of 370 would be by chance."""


def log_odds(chosen: Floats, rejected: Floats, prior: Floats) -> tuple[Floats, Floats]:
    """Log-odds ratio and its z-score of each word, from its counts in both and in the prior."""
    y, x, total = chosen + prior, rejected + prior, prior.sum()
    n, m = chosen.sum() + total, rejected.sum() + total
    delta = np.log(y / (n - y)) - np.log(x / (m - x))
    return delta, delta / np.sqrt(1 / y + 1 / x)


def vocabulary_section(tables: Tables) -> dict[str, Any]:
    """The words most over-represented in chosen, and those in rejected."""
    names = list(tables.vocabulary)
    counts = np.array(list(tables.vocabulary.values()), dtype=np.float64).reshape(-1, 4)
    chosen, rejected = counts[:, 0], counts[:, 1]
    n_pairs = len(tables.pairs["prompt"])
    if not n_pairs:
        return left_out(NO_PAIRS)
    both = chosen + rejected
    if len(names) < 2 or not chosen.sum() or not rejected.sum():
        return {**left_out("one side of all pairs has no words", n_pairs), "distinct_words": len(names)}
    delta, z = log_odds(chosen, rejected, PRIOR * both / both.sum())
    usual = counts[:, 2] + counts[:, 3] >= FEWEST_PAIRS
    rows: list[dict[str, Any]] = [
        {
            "word": names[i],
            "z": round(float(z[i]), 3),
            "log_odds": round(float(delta[i]), 3),
            **{
                name: int(counts[i, k])
                for k, name in enumerate(("chosen", "rejected", "chosen_pairs", "rejected_pairs"))
            },
        }
        for i in np.flatnonzero(usual & (np.abs(z) >= TELLING))
    ]
    rows.sort(key=lambda row: (-abs(row["z"]), row["word"]))
    largest = float(np.abs(z[usual]).max()) if usual.any() else None
    return {
        "n": n_pairs,
        "distinct_words": len(names),
        "words": {"chosen": int(chosen.sum()), "rejected": int(rejected.sum())},
        "largest_z": plain(largest, n_pairs, f"no word stands in {FEWEST_PAIRS} pairs"),
        "telling": len(rows),
        "in_chosen": [row for row in rows if row["z"] > 0][:SHOWN],
        "in_rejected": [row for row in rows if row["z"] < 0][:SHOWN],
    }
