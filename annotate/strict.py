"""How a record is read and written: strictly, and hashed in one canonical form. What the records are: `records.py`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from annotate.errors import RecordError


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, no NaN. What every hash is taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: Any) -> str:
    """Full sha256, in hex, of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def content_id(value: Any) -> str:
    """The 16 hex digits by which a record is known."""
    return sha256_of(value)[:16]


class Record:
    """Base of all records: strict reading, plain writing."""

    SCHEMA: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, its schema first; nested records carry no schema of their own."""
        return {"schema": self.SCHEMA, **_fields_to_json(self)}

    @classmethod
    def from_json(cls, row: Any) -> Self:
        """Read one line. Raises `RecordError` naming the field at fault."""
        if not isinstance(row, Mapping):
            raise RecordError(f"{cls.SCHEMA}: expected a JSON object, got {type(row).__name__}")
        found = row.get("schema")
        if found != cls.SCHEMA:
            raise RecordError(f"{cls.SCHEMA}: this line has schema {found!r}; is it the right file?")
        fields = {k: v for k, v in row.items() if k != "schema"}
        return typing.cast(Self, _read_record(cls, fields, cls.SCHEMA))


def _fields_to_json(record: Any) -> dict[str, Any]:
    return {f.name: _to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _fields_to_json(value)
    if isinstance(value, tuple | list):
        return [_to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _to_json(v) for k, v in value.items()}
    return value.value if isinstance(value, Enum) else value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _read_record(cls: type, row: Mapping[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(row) - set(fields))
    required = {
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(row))
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
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise RecordError(f"{where}: expected an object, got {type(value).__name__}")
        return _read_record(typing.cast(type, kind), value, where)
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
