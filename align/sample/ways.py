"""How a model is decoded: the fastest way that is right for its family.

`tree`: all completions of a prompt in its one row of the cache (`align.sample.tree`). `rows`: a row for each, written
in place, where attention takes no mask of four dimensions. `generate`: transformers' own loop, for families of which
it has not been shown that the others give the same.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Literal

Way = Literal["tree", "rows", "generate"]

FAMILIES = frozenset({"llava", "llava_next", "llama", "mistral"})
"""Of those the tests compare the ways, token by token."""
_LANGUAGE_MODELS = frozenset({"llama", "mistral"})
_MASKED = frozenset({"sdpa", "eager"})
"""Attention that takes any mask."""
_STEADY = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary positions that do not change with the longest row of a batch."""


def way_of(model: Any) -> Way:
    """The way for this model, from its configuration."""
    text = model.config.get_text_config()
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if model.config.model_type not in FAMILIES or text.model_type not in _LANGUAGE_MODELS or rope not in _STEADY:
        return "generate"
    windowed = getattr(text, "sliding_window", None) is not None
    return "tree" if text._attn_implementation in _MASKED and not windowed else "rows"


@cache
def say_once(name: str) -> None:
    """To the log: that this class of models is decoded in the slow way."""
    logging.getLogger(__name__).warning(
        "%s is decoded by transformers' own `generate`: the faster ways are tested for %s only",
        name,
        ", ".join(sorted(FAMILIES)),
    )
