"""Finds JSON in prose; forgives its form, never its meaning.

    list(json_values("So: {'a': 3, /* three */} Done."))  ->  [Found(start=4, end=25, value=Pairs([("a", 3)]))]

Forgiven are commas before a closing bracket, single and typographic quotation marks, words without any, comments,
Python's `None` and `True`, line breaks and unknown escapes within strings. Not forgiven is whatever is missing: a
comma, a bracket, a quotation mark. Where the text ends within an object, nobody knows what would have followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple


class BrokenJson(ValueError):
    """The text ends within an object, or is no text at all but a heap of brackets; the message says which."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs: a key given twice is seen twice."""


class Found(NamedTuple):
    """A JSON object or list, and where in the text it stands."""

    start: int
    end: int
    value: Any


def json_values(text: str) -> Iterator[Found]:
    """Every JSON object or list that stands in `text`, the outermost only. Raises `BrokenJson`."""
    reader = _Reader(text)
    end = 0
    for opening in _OPENING.finditer(text):
        start = opening.start()
        if start < end or start in reader.unclosed:
            continue
        try:
            value, end = reader.outermost(start)
        except _NotJson:
            continue
        yield Found(start, end, value)


_DEEPEST = 32
_OPENING = re.compile(  # an object begins with a key, a list of any use with an object, a list or a string
    r"""\{(?=\s*(?:["'“„]?[^"'“„”:{}\[\]\n]{1,80}["'“”]?\s*:|[/#}]))|\[(?=[\s\[]{0,8}(?:["'“„/#]|\{\s*[^\s\[{]))"""
)
_GAP = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*[^*]{0,300}\*/)*")
_STRING = re.compile(
    r'"([^"\\]*(?:\\.[^"\\]*)*)"'
    r"|'([^'\\\n]*(?:\\.[^'\\\n]*)*)'"
    r"|[“„]([^“”\\\n]*(?:\\.[^“”\\\n]*)*)[“”]",
    re.DOTALL,
)
_WORD = re.compile(r"(?:(?!//|/\*)[^,:{}\[\]\"'“”„`#\n]){1,60}")  # 3, true, NaN, 3/4, high
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS = {"true": True, "false": False, "null": None, "none": None}


class _NotJson(Exception):
    """No JSON begins here."""


class _Reader:
    """Reads values at given places of one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.unclosed: set[int] = set()
        """Brackets that were read as opening and never closed: another attempt there would end the same way."""
        self._keys = 0
        self._start = 0
        self._effort = 3 * len(text) + 50_000

    def outermost(self, at: int) -> tuple[Any, int]:
        self._keys, self._start = 0, at
        value, end = self._container(at, 0)
        self._spend(end)
        return value, end

    def _container(self, opening: int, depth: int) -> tuple[Any, int]:
        if depth == _DEEPEST:
            raise self._broken(opening)
        self.unclosed.add(opening)
        in_object = self.text[opening] == "{"
        closing = "}" if in_object else "]"
        pairs, items = Pairs(), list[Any]()
        at = self._gap(opening + 1)
        while not self.text.startswith(closing, at):
            if in_object:
                key, at = self._key(at)
                value, at = self._value(at, depth)
                pairs.append((key, value))
            else:
                value, at = self._value(at, depth)
                items.append(value)
            at = self._gap(at)
            if self.text.startswith(",", at):
                at = self._gap(at + 1)
            elif not self.text.startswith(closing, at):
                raise self._broken(at)
        self.unclosed.discard(opening)
        return (pairs if in_object else items), at + 1

    def _key(self, at: int) -> tuple[str, int]:
        key, at = self._string(at) if self._quoted(at) else self._word(at)
        at = self._gap(at)
        if not self.text.startswith(":", at):
            raise self._broken(at)
        self._keys += 1
        return key, self._gap(at + 1)

    def _value(self, at: int, depth: int) -> tuple[Any, int]:
        if self.text.startswith(("{", "["), at):
            return self._container(at, depth + 1)
        if self._quoted(at):
            return self._string(at)
        word, at = self._word(at)
        if re.fullmatch(r"-?\d{1,15}", word):
            return int(word), at
        if re.fullmatch(r"-?\d{1,15}\.\d{1,15}", word):
            return float(word), at
        return _WORDS.get(word.casefold(), word), at

    def _quoted(self, at: int) -> bool:
        return self.text.startswith(('"', "'", "“", "„"), at)

    def _string(self, at: int) -> tuple[str, int]:
        match = _STRING.match(self.text, at)
        if match is None:  # it never ends, or not within its line
            goes_on = self.text[at] != '"' and self.text.find("\n", at) > 0
            raise self._broken(at if goes_on else len(self.text))
        return _unescaped(match.group(match.lastindex or 1)), match.end()

    def _word(self, at: int) -> tuple[str, int]:
        match = _WORD.match(self.text, at)
        if match is None:
            raise self._broken(at)
        return match.group().strip(), match.end()

    def _gap(self, at: int) -> int:
        match = _GAP.match(self.text, at)
        return match.end() if match else at

    def _broken(self, at: int) -> Exception:
        """What to raise where no JSON can go on."""
        if at >= len(self.text) and self._keys:
            return BrokenJson("the reply is cut off within a JSON object")
        self._spend(at)
        return _NotJson()

    def _spend(self, at: int) -> None:
        """Count what an attempt cost, so that no text takes long."""
        self._effort -= at - self._start + 50
        if self._effort < 0:
            raise BrokenJson("the reply is a tangle of brackets")


def _unescaped(string: str) -> str:
    if "\\" not in string:
        return string
    plain = _ESCAPE.sub(_meant, string)
    # Two escapes may stand for one character; half of such a pair stands for none.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _meant(escape: re.Match[str]) -> str:
    name = escape.group(1)
    return chr(int(name[1:], 16)) if len(name) == 5 else _ESCAPED.get(name, name)
