"""SQuAD 2.0 (arXiv:1806.03822): lm-eval's prompt on local rows, and the official scores without a download.

lm-eval fetches its scorer from the hub when it aggregates, and knows only the hub's rows. Its headline F1 is the plain
one (no threshold on the probability of `unanswerable`), which is what is computed here.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.squadv2.task import SQuAD2 as Shipped

_ARTICLE = re.compile(r"\b(a|an|the)\b")


class SQuAD2(Shipped):
    """lm-eval's task, on rows of a file."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in config.items() if name != "class"}
        self.DATASET_PATH, self.DATASET_NAME = kept["dataset_path"], None
        ConfigurableTask.__init__(self, config=kept | {"metadata": {"version": self.VERSION}})

    def has_training_docs(self) -> bool:
        return self.config.training_split is not None

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> Any:
        return self.dataset["test"]


def exact_and_f1(text: str, answers: Sequence[str]) -> dict[str, float]:
    """The better of each over the true answers."""
    said = _words(text)
    truths = [words for answer in answers if (words := _words(answer))] or [[]]
    return {
        "exact": max(float(said == truth) for truth in truths),
        "f1": max(_f1(said, truth) for truth in truths),
    }


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLE.sub(" ", bare).split()


def _f1(said: Sequence[str], truth: Sequence[str]) -> float:
    if not said or not truth:
        return float(said == truth)
    common = (Counter(said) & Counter(truth)).total()
    return 2 * common / (len(said) + len(truth))
