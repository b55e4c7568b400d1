"""How a record is read and written: strictly, and hashed in one canonical form. What the records are: `records.py`.

Two readers, one meaning. `from_line` reads a line of a file as msgspec does, in C, at about the speed of plain JSON
parsing; whatever it does not take at once goes to `from_json`, which is written out here and says best what is wrong.
A property test holds the two together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from annotate.errors import RecordError

T = TypeVar("T")
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, no NaN. What every hash is taken of."""
    return _CANONICAL.encode(value)


def sha256_of(value: Any) -> str:
    """Full sha256, in hex, of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def content_id(value: Sequence[Any]) -> str:
    """The 16 hex digits by which a record is known: of texts, whole numbers, and lists and objects of them."""
    return _sha256(_sorted(value)).hexdigest()[:16]


def content_sha256(value: Sequence[Any]) -> str:
    """`sha256_of` for texts, whole numbers, and lists and objects of them.

    Of these msgspec writes the very bytes of `canonical_json`, many times faster; of floats it would not.
    """
    return _sha256(_sorted(value)).hexdigest()


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what stands inside a record and has no line of its own."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: strict reading, plain writing."""

    SCHEMA: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, its schema first; nested records carry no schema of their own."""
        return {"schema": self.SCHEMA, **_to_json(self)}

    @classmethod
    def from_json(cls, row: Any) -> Self:
        """Read one line's JSON value. Raises `RecordError` naming the field at fault."""
        if not isinstance(row, Mapping):
            raise RecordError(f"{cls.SCHEMA}: expected a JSON object, got {type(row).__name__}")
        found = row.get("schema")
        if found != cls.SCHEMA:
            raise RecordError(f"{cls.SCHEMA}: this line has schema {found!r}; is it the right file?")
        fields = {k: v for k, v in row.items() if k != "schema"}
        return typing.cast(Self, _read_record(cls, fields, cls.SCHEMA))

    def to_line(self) -> bytes:
        """The record as a line of a file, newline included. Raises `ValueError` for NaN and infinities."""
        body = _ENCODER.encode(self)
        # msgspec writes NaN and infinities as null: a line with no more nulls than fields that are None hides none
        if body.count(b"null") != _may_be_none(type(self))(self).count(None) and not _finite(self):
            raise ValueError(f"{self.SCHEMA}: holds NaN or an infinity, which JSON has no word for")
        return b'{"schema":"%b"%b%b\n' % (self.SCHEMA.encode(), b"," if len(body) > 2 else b"", body[1:])

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read one line of a file. Raises `RecordError` naming the field at fault, `ValueError` for what is no JSON."""
        for head in _heads(cls):
            if line.startswith(head):
                try:
                    return typing.cast(Self, _decoder(cls).decode(b"{" + line[len(head) :]))
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    break
        return cls.from_json(json.loads(line.decode(), parse_constant=_refuse_constant, parse_float=_finite_float))


def replace(value: T, /, **changes: Any) -> T:
    """A record, or a dataclass, with some fields changed; it is checked again."""
    if isinstance(value, msgspec.Struct):
        return typing.cast(T, msgspec.structs.replace(value, **changes))
    return typing.cast(T, dataclasses.replace(typing.cast(Any, value), **changes))


_ENCODER = msgspec.json.Encoder()
_sorted = msgspec.json.Encoder(order="sorted").encode
_sha256 = hashlib.sha256


@cache
def _decoder(cls: type[Record]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cls)


@cache
def _heads(cls: type[Record]) -> tuple[bytes, bytes]:
    """How a line of this schema begins, as we write it and as `json.dumps` does."""
    schema = cls.SCHEMA.encode()
    return b'{"schema":"%b",' % schema, b'{"schema": "%b",' % schema


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is larger than any float")
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, msgspec.Struct):
        return all(_finite(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, tuple | list) or all(map(_finite, value))


@cache
def _may_be_none(cls: type[Record]) -> attrgetter[tuple[Any, ...]]:
    """Gets the fields that may be None, also those of the records in it: `prompt.reference`, `margin`, ..."""

    def below(struct: type[msgspec.Struct]) -> Iterator[str]:
        for name in struct.__struct_fields__:
            kind = _hints(struct)[name]
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                yield from (f"{name}.{inner}" for inner in below(kind))
            elif type(None) in get_args(kind):
                yield name

    return attrgetter("SCHEMA", "SCHEMA", *below(cls))  # of two or more it makes a tuple


def _to_json(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _to_json(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple | list):
        return [_to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _to_json(v) for k, v in value.items()}
    return value.value if isinstance(value, Enum) else value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


@cache
def _names(cls: type) -> tuple[frozenset[str], frozenset[str]]:
    """All fields, and those that must be there."""
    fields = msgspec.structs.fields(cls)
    return frozenset(f.name for f in fields), frozenset(f.name for f in fields if f.required)


def _read_record(cls: type, row: Mapping[str, Any], where: str) -> Any:
    known, required = _names(cls)
    unknown, missing = sorted(row.keys() - known), sorted(required - row.keys())
    if unknown or missing:
        parts = [f"unknown field {n!r}" for n in unknown] + [f"missing field {n!r}" for n in missing]
        raise RecordError(f"{where}: {', '.join(parts)}")
    hints = _hints(cls)
    return cls(**{name: _read(hints[name], value, f"{where}.{name}") for name, value in row.items()})


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, or a RecordError. JSON has no tuples and no dataclasses; nothing else is converted."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _read(inner, value, where)
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise RecordError(f"{where}: {value!r} is none of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _read_tuple(args, value, where)
    if origin in (dict, Mapping, typing.Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise RecordError(f"{where}: expected an object, got {type(value).__name__}")
        return {k: _read(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not isinstance(value, Mapping):
            raise RecordError(f"{where}: expected an object, got {type(value).__name__}")
        return _read_record(kind, value, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise RecordError(f"{where}: {value!r} is none of {', '.join(str(k.value) for k in kind)}") from None
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise RecordError(f"{where}: expected {kind.__name__}, got {type(value).__name__} ({value!r:.40})")
    return value


def _read_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RecordError(f"{where}: expected a list, got {type(value).__name__}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_read(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if len(args) != len(value):
        raise RecordError(f"{where}: expected {len(args)} values, got {len(value)}")
    return tuple(_read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
