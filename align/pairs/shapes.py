"""Whether options that were given in Python are of the shape that their annotation says.

    Pairs(rejected="worse")  ->  "pairs.rejected: 'worse' is none of random_below_margin, worst, ..., all_pairs"

A recipe and the command line are checked where they are read; a frozen dataclass takes whatever it is given.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from align.settings import Pairs

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "None"}


@cache
def _hints() -> Mapping[str, Any]:
    return get_type_hints(Pairs)


def misshapen(settings: Pairs) -> Iterator[str]:
    """What is wrong, option by option."""
    for name, hint in _hints().items():
        value = getattr(settings, name)
        if name == "score" and isinstance(value, str):
            continue  # an attribute in place of a list of them has words of its own
        if not _fits(value, hint):
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            said = f"is none of {', '.join(map(str, choices))}" if choices else f"is not {_in_words(hint)}"
            yield f"pairs.{name}: {value!r:.80} {said}"


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, inner[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _in_words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_in_words, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a tuple of ({_in_words(inner[0])})"
    if origin is Mapping:
        return f"a dict of {_in_words(inner[1])} by name"
    return _WORDS[hint]
