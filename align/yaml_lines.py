"""YAML with the line of every key, and without YAML's traps.

    dpo:                      values  {"dpo": {"trl": {"beta": 0.1}}}
      trl: {beta: 1e-1}       lines   {"dpo": 1, "dpo.trl": 2, "dpo.trl.beta": 2}

Read with the scalars of YAML 1.2: `5e-7` is a number, only `true` and `false` are booleans, and `1:30`, `010` and
`2024-01-01` are text. Duplicate keys, tags, merge keys and a second document are faults.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TRAPS = frozenset({"no", "yes", "on", "off", "y", "n"})
"""Words that YAML 1.1 readers take for a boolean."""

_TAG = "tag:yaml.org,2002:"
_DEEPEST = 20


class Plain(str):
    """Text that stood without quotes, so that its reader may doubt it."""

    __slots__ = ()


@dataclass
class Document:
    """What a file holds, on which line each key stands, and what is wrong with it as YAML."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[int | None, str, str]] = field(default_factory=list)
    """(line, dotted key or "", what is wrong)"""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2 in place of 1.1's guesses."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way


_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> Document:
    """The mapping in `path`; what cannot be read is in `faults`, nothing is raised."""
    document = Document()
    try:
        raw = path.read_bytes()
    except OSError as error:
        document.faults.append((None, "", f"cannot be read ({error.strerror}); is the path right?"))
        return document
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        document.faults.append((line, "", f"byte {raw[error.start]:#04x} is not UTF-8; save the file as UTF-8"))
        return document
    node = _compose(text, document)
    if node is None:
        if not document.faults:
            document.faults.append((None, "", "is empty"))
    elif not isinstance(node, yaml.MappingNode):
        document.faults.append((node.start_mark.line + 1, "", "expected `key: value` lines"))
    else:
        document.values = _mapping(node, "", document)
    return document


def parse_value(text: str) -> Any:
    """What stands behind `key=` on the command line, read as in a file. Raises ValueError saying why not."""
    document = Document()
    node = _compose(text, document)
    value = None if node is None else _value(node, "", document)
    if document.faults:
        raise ValueError(document.faults[0][2])
    return value


def _compose(text: str, document: Document) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.faults.append((mark.line + 1 if mark else None, "", f"not YAML: {error.problem or error.context}"))
    except yaml.YAMLError as error:
        document.faults.append((None, "", f"not YAML: {str(error).splitlines()[0]}"))
    return None


def _mapping(node: yaml.MappingNode, prefix: str, document: Document) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
            document.faults.append((line, prefix, "a key must be text"))
            continue
        key = f"{prefix}.{key_node.value}" if prefix else key_node.value
        if key_node.value in found:
            document.faults.append((line, key, f"stands twice, first on line {document.lines[key]}; delete one"))
            continue
        document.lines[key] = line
        found[key_node.value] = _value(value_node, key, document)
    return found


def _value(node: yaml.Node, key: str, document: Document) -> Any:
    if key.count(".") > _DEEPEST:
        document.faults.append((node.start_mark.line + 1, key[:40], "is nested too deeply; an alias inside itself?"))
        return None
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, key, document)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_value(item, f"{key}.{i}", document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        text = node.value
        if node.tag == f"{_TAG}str":
            return Plain(text) if node.style is None else text
        if node.tag in _SCALARS and node.style is None:
            return _SCALARS[node.tag](text)
    document.faults.append((node.start_mark.line + 1, key, f"tag {node.tag!r} is not allowed in a recipe"))
    return None


_SCALARS: dict[str, Any] = {
    f"{_TAG}null": lambda text: None,
    f"{_TAG}bool": lambda text: text.lower() == "true",
    f"{_TAG}int": int,
    f"{_TAG}float": float,
}
