"""From the values of a YAML file to a settings dataclass: unknown keys, wrong types and impossible values, all told.

Takes a dataclass made of `settings.option` fields and a mapping; gives its keyword arguments. What is wrong goes to
`Faults`, which knows on which line each key stands; the field then keeps its default, so that later checks go on.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from align.yaml_lines import TRAPS, Plain

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_BAD = object()
REFUSED = dict.fromkeys(
    ("token_weights", "token_weighting", "token_weighted", "fine_grained", "ddpo"),
    "token-weighted (fine-grained) DPO is not offered: TRL's losses take sums over whole answers, and the paper trains "
    "without it (Multi-Modal Preference Alignment, Table 5); TRL's `use_weighting` weighs whole pairs (WPO)",
)
"""Options that one may look for, and why there are none."""


class Faults:
    """Everything wrong with one recipe, as lines for its author."""

    def __init__(self, file: str, lines: Mapping[str, int]) -> None:
        self.file, self.lines = file, lines
        self._found: list[tuple[float, str, str]] = []
        self._overridden: dict[str, int | None] = {}

    @property
    def texts(self) -> list[str]:
        """In the order of the file; those of the command line last."""
        return [text for _, _, text in sorted(self._found, key=lambda found: found[0])]

    def has(self, key: str) -> bool:
        """Whether something is wrong with this key already."""
        return any(key == found for _, found, _ in self._found)

    def mark_override(self, key: str, line: int | None = None) -> None:
        """The key's value is not the one in the file: it is of the command line, or stands elsewhere in the file."""
        self._overridden[key] = line

    def is_override(self, key: str) -> bool:
        return key in self._overridden

    def add(self, key: str, what: str) -> None:
        """`what` is wrong with the key, wherever it or the nearest key around it stands."""
        line = self._line(key)
        self._add(float("inf") if line is None else line, self.where(key), key, what)

    def add_at(self, line: int | None, key: str, what: str) -> None:
        self._add(line or 0, f"{self.file}:{line}" if line else self.file, key, what)

    def _add(self, order: float, where: str, key: str, what: str) -> None:
        self._found.append((order, key, f"{where}  {key}: {what}" if key else f"{where}  {what}"))

    def where(self, key: str) -> str:
        """The place of the key, or of the nearest key around it: `recipes/x.yaml:14`, or `command line`."""
        line = self._line(key)
        return "command line" if line is None else f"{self.file}:{line}" if line else self.file

    def _line(self, key: str) -> int | None:
        """0: the file as a whole; None: the command line."""
        parts = key.split(".")
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in self._overridden:
                return self._overridden[prefix]
            if prefix in self.lines:
                return self.lines[prefix]
        return 0


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def read_block(cls: type, values: Mapping[str, Any], prefix: str, faults: Faults) -> dict[str, Any]:
    """Keyword arguments of `cls` from `values`, which stand below `prefix` in the file."""
    specs = {f.name: f for f in dataclasses.fields(cls) if not f.metadata.get("derived")}
    hints = get_type_hints(cls)
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        if name not in specs:
            faults.add(key, REFUSED.get(name) or f"unknown key{_hint(name, specs, hints)}")
            continue
        read = _read(hints[name], value, key, faults)
        if read is not _BAD and _in_range(read, specs[name].metadata, key, faults):
            found[name] = read
    return found


def _hint(name: str, specs: Mapping[str, Any], hints: Mapping[str, Any]) -> str:
    """What the author may have meant: a like key, a key of an inner block, or else the list of keys."""
    near = did_you_mean(name, specs)
    if near:
        return near
    for outer, hint in hints.items():
        inner = _dataclass_in(hint)
        if inner and name in {f.name for f in dataclasses.fields(inner)}:
            return f"; it belongs to `{outer}`"
    if "trl" in specs:
        return "; options of the trainer go below `trl:`"
    return f"; known: {', '.join(specs)}"


def _dataclass_in(hint: Any) -> Any:
    return next((a for a in (hint, *get_args(hint)) if dataclasses.is_dataclass(a)), None)


def _read(kind: Any, value: Any, key: str, faults: Faults) -> Any:
    """`value` as `kind`, or a fault and `_BAD`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        kinds = [a for a in args if a is not type(None)]
        if value is not None:
            shaped = _shaped_like(value, kinds)
            words = get_args(shaped)
            if {get_origin(k) for k in kinds} == {tuple, Literal} and isinstance(value, str) and value not in words:
                return _fault(faults, key, f"expected a list [a, b], got {shown(value)}; or {', '.join(words)}")
            return _read(shaped, value, key, faults)
        if type(None) not in args:
            return _fault(faults, key, "expected a value, got nothing")
        if any(map(dataclasses.is_dataclass, kinds)):
            return _fault(faults, key, "is empty; write {} for the defaults, or delete the line")
        return None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            return _fault(faults, key, f"expected a block {{key: value}}, got {shown(value)}")
        return kind(**read_block(kind, value, key, faults))
    if isinstance(value, Plain) and value.lower() in TRAPS and kind is not bool and str(value) not in args:
        return _fault(faults, key, f"{str(value)!r} reads as true or false elsewhere; put it in quotes if it is text")
    if origin is Literal:
        if isinstance(value, bool) or value not in args:
            hint = did_you_mean(str(value), map(str, args))
            return _fault(faults, key, f"{shown(value)} is none of {', '.join(map(str, args))}{hint}")
        return value if not isinstance(value, str) else str(value)
    if origin is tuple:
        if not isinstance(value, list) or not value:
            return _fault(faults, key, f"expected a list [a, b], got {shown(value)}")
        items = [_read(args[0], item, f"{key}.{i}", faults) for i, item in enumerate(value)]
        return _BAD if _BAD in items else tuple(items)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return _fault(faults, key, f"expected {{key: value}}, got {shown(value)}")
        if args[1] is Any:
            return _free(value, key, faults)
        for name in [name for name, inner in value.items() if inner is None and ":" in name]:
            shown_key = name.replace(":", ": ", 1)
            return _fault(faults, key, f"{name!r} has no value; YAML wants a blank behind the colon: `{shown_key}`")
        read = {name: _read(args[1], inner, f"{key}.{name}", faults) for name, inner in value.items()}
        return _BAD if _BAD in read.values() else read
    return _scalar(kind, value, key, faults)


def _shaped_like(value: Any, kinds: list[Any]) -> Any:
    """Of several kinds the one for a list, a block or a single value; the last where none is."""
    wanted = (tuple,) if isinstance(value, list) else (dict, Mapping) if isinstance(value, Mapping) else (Literal, None)
    return next((kind for kind in kinds if get_origin(kind) in wanted), kinds[-1])


def _free(value: Any, key: str, faults: Faults) -> Any:
    """A value whose shape its own reader knows: only the words that may mean true or false are doubted."""
    if isinstance(value, Mapping):
        read = {name: _free(inner, f"{key}.{name}", faults) for name, inner in value.items()}
        return {name: inner for name, inner in read.items() if inner is not _BAD}
    if isinstance(value, list):
        return [_free(inner, key, faults) for inner in value]
    if isinstance(value, Plain) and value.lower() in TRAPS:
        return _fault(faults, key, f"{str(value)!r} could be false or text; write true or false, or put it in quotes")
    return str(value) if isinstance(value, str) else value


def _scalar(kind: Any, value: Any, key: str, faults: Faults) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return str(value) if kind is str else value
    remedy = ""
    if kind is str and isinstance(value, int | float):
        remedy = "; put it in quotes"
    elif kind in (int, float) and isinstance(value, str) and _is_number(value):
        remedy = f"; write {value} without quotes"
    return _fault(faults, key, f"expected {_NAMES[kind]}, got {shown(value)}{remedy}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _in_range(value: Any, metadata: Mapping[str, Any], key: str, faults: Faults) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    low, above, high = metadata.get("low"), metadata.get("above"), metadata.get("high")
    bad = (low is not None and value < low, above is not None and value <= above, high is not None and value > high)
    if not math.isfinite(value):
        faults.add(key, f"{value} is no number to work with")
        return False
    if not any(bad):
        return True
    limits = [f"at least {low}"] * (low is not None) + [f"above {above}"] * (above is not None)
    limits += [f"at most {high}"] * (high is not None)
    faults.add(key, f"{value} is impossible; it must be {' and '.join(limits)}")
    return False


def _fault(faults: Faults, key: str, what: str) -> Any:
    faults.add(key, what)
    return _BAD


def shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"text {str(value)!r:.60}"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a block"
