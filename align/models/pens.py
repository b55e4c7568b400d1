"""What a row of a batch writes, token by token: freely, or into a form of which it only fills in the blanks.

    Pen(ends={2}, room=512)                                    free text, up to an end marker or 512 tokens
    FormPen(ends={2}, room=512, form=form, tokenizer=...)      free reasoning, then the form

A form is the JSON that was asked for, as fixed text and choices:

    form_of(request.schema)  ->  ['{"ratings": [{"completion": 1, "helpfulness": ', ("0", "1", "2", "3", "4"), '}]}']

Fixed text is put before the model as if it had written it; at each choice it picks by its own probabilities among what
is allowed. So the reply can always be read, and every number in it is the model's own. `Writing` joins the pens of a
batch into a logits processor, so that all of it is one call of `generate`, whatever the model's family.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from align.models.draws import SeededDraw

if TYPE_CHECKING:
    import torch

Piece = str | tuple[str, ...]
"""Fixed text, or the texts to choose among."""

_POSITION = "completion"
_JSON_BEGINS = re.compile(r"(?:\A|\n|`)[^\S\n]*(?:json)?\s*\Z")
"""A brace after this begins the reply's JSON: on a line of its own, or in a fence. Others are mathematics."""


# --------------------------------------------------------------------------------------------------------------- forms


def form_of(schema: Mapping[str, Any]) -> list[Piece]:
    """The form of a JSON schema: its integers and words to choose are blanks, its free texts are left out."""
    pieces: list[Piece] = []
    for piece in _pieces(schema, 1):
        if pieces and isinstance(piece, str) and isinstance(pieces[-1], str):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def _pieces(schema: Mapping[str, Any], place: int) -> list[Piece]:
    """`place`: which entry of its list this is, from 1; what an entry says of its place is no choice."""
    if "enum" in schema:
        return [tuple(json.dumps(word) for word in schema["enum"])]
    if schema["type"] == "integer":
        return [tuple(str(n) for n in range(schema["minimum"], schema["maximum"] + 1))]
    if schema["type"] == "array":
        entries = [_pieces(schema["items"], i) for i in range(1, schema["minItems"] + 1)]
        return ["[", *_joined(entries), "]"]
    members: list[list[Piece]] = []
    for key, inner in schema["properties"].items():
        value = [str(place)] if key == _POSITION else [] if _is_free_text(inner) else _pieces(inner, place)
        if value:
            members.append([f"{json.dumps(key)}: ", *value])
    return ["{", *_joined(members), "}"]


def _joined(parts: Sequence[Sequence[Piece]]) -> list[Piece]:
    return [piece for i, part in enumerate(parts) for piece in ([", "] if i else []) + list(part)]


def _is_free_text(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" and "enum" not in schema


Step = list[tuple[str, list[int]]]
"""The texts that may come next, with their tokens; fixed text is a step without a choice."""


def steps_of(form: Sequence[Piece], tokenizer: Any) -> list[Step]:
    """The form in tokens. Where a choice's first characters share a token with the text before, that goes with it."""
    steps: list[Step] = []
    for i, piece in enumerate(form):
        if isinstance(piece, str):
            if i + 1 == len(form):
                steps.append([(piece, _tokens_after(tokenizer, piece))])
            continue
        before = str(form[i - 1])
        whole = [_tokens_after(tokenizer, before + choice) for choice in piece]
        shared = _shared_start(whole)
        steps.append([(before, whole[0][:shared])])
        steps.append([(choice, ids[shared:]) for choice, ids in zip(piece, whole, strict=True)])
    return [step for step in steps if any(ids for _, ids in step)]


def _tokens_after(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `text` where it stands after a number: some tokenizers write a first word differently."""
    anchor, whole = (
        tokenizer(t, add_special_tokens=False, verbose=False)["input_ids"] for t in ("\n\n0", f"\n\n0{text}")
    )
    if whole[: len(anchor)] == anchor:
        return list(whole[len(anchor) :])
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _shared_start(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with; at least one is left of each."""
    most = min(len(row) for row in rows) - 1
    return next((i for i in range(most) if len({row[i] for row in rows}) > 1), most)


def n_tokens(steps: Sequence[Step]) -> int:
    """The most that the form takes."""
    return sum(max(len(ids) for _, ids in step) for step in steps)


# ---------------------------------------------------------------------------------------------------------------- pens


class Pen:
    """Writes freely, until it writes an end marker or its room is used up."""

    def __init__(self, *, ends: Sequence[int], room: int, tokenizer: Any) -> None:
        self.ends, self.room, self.tokenizer = list(ends), room, tokenizer
        self.tokens: list[int] = []
        self.finish: Literal["", "stop", "length"] = ""

    def allowed(self) -> Sequence[int] | None:
        """Tokens that may come next; None: any."""
        return None

    def write(self, picked: int) -> int:
        """Take the token that the model picked; returns the one that is written in its place."""
        if self.finish:
            return self.ends[0]
        if picked in self.ends:
            self.finish = "stop"
            return picked
        self.tokens.append(picked)
        if len(self.tokens) == self.room:
            self.finish = "length"
        return picked

    def text(self) -> str:
        return self._decoded(self.tokens).strip()

    def _decoded(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class FormPen(Pen):
    """Reasons freely first, then fills in the form.

    It turns to the form at an end marker, where the model begins to write JSON of its own, or where only the room for
    the form is left.
    """

    def __init__(self, *, ends: Sequence[int], room: int, tokenizer: Any, steps: Sequence[Step]) -> None:
        super().__init__(ends=ends, room=room, tokenizer=tokenizer)
        lead = _tokens_after(tokenizer, "\n\n")
        self.steps: list[Step] = [[("", lead)], *steps]
        self.reasoning_room = room - n_tokens(self.steps) - 1
        self.at: int | None = None
        """Which step is being written; None: still reasoning."""
        self.partial: list[int] = []
        self.thoughts: list[int] = []
        self.reasoning = ""
        self.filled = ""

    def allowed(self) -> Sequence[int] | None:
        if self.finish:
            return None
        if self.at is None:
            if len(self.tokens) < self.reasoning_room:
                return None
            self._begin()
        return sorted(self._next())

    def write(self, picked: int) -> int:
        if self.finish:
            return self.ends[0]
        if self.at is None:
            if picked not in self.ends and not self._begins_json(picked):
                self.tokens.append(picked)
                return picked
            self._begin()
            picked = min(self._next())
        self.tokens.append(picked)
        if picked not in self._continuations():
            self._advance()  # a choice that is also the beginning of another was complete
        self.partial.append(picked)
        if not self._continuations():
            self._advance()
        return picked

    def text(self) -> str:
        """The wanted JSON, the reasoning in it, written so that nothing in the reasoning can be taken for marks."""
        whole = {"reasoning": self.reasoning, **json.loads(self.filled)}
        return json.dumps(whole, ensure_ascii=False).replace("<", "\\u003c")

    def _begin(self) -> None:
        self.at, self.thoughts = 0, [*self.tokens]
        self.reasoning = re.sub(r"`{3}\w*\s*\Z", "", self._decoded(self.thoughts)).strip()

    def _begins_json(self, picked: int) -> bool:
        before, brace, _ = self._decoded([picked]).partition("{")
        return bool(brace) and _JSON_BEGINS.search(self._decoded(self.tokens[-12:]) + before) is not None

    def _continuations(self) -> set[int]:
        """Tokens that go on with what is being written."""
        assert self.at is not None
        done = len(self.partial)
        return {ids[done] for _, ids in self.steps[self.at] if len(ids) > done and ids[:done] == self.partial}

    def _next(self) -> set[int]:
        """And those with which the next text begins, where what is written is already one of the choices."""
        assert self.at is not None
        complete = self.partial and any(ids == self.partial for _, ids in self.steps[self.at])
        after = {ids[0] for _, ids in self.steps[self.at + 1]} if complete else set()
        return self._continuations() | after

    def _advance(self) -> None:
        assert self.at is not None
        self.filled += next(text for text, ids in self.steps[self.at] if ids == self.partial)
        self.at, self.partial = self.at + 1, []
        if self.at == len(self.steps):
            self.finish = "stop"


class Writing:
    """The pens of a batch as a logits processor: the pick of each row, then what its pen makes of it.

    Greedy where `draw` is None.
    """

    def __init__(self, pens: Sequence[Pen], draw: SeededDraw | None) -> None:
        self.pens, self.draw = pens, draw

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        scores = scores.clone()
        for b, pen in enumerate(self.pens):
            if (allowed := pen.allowed()) is not None:
                kept = scores[b, allowed]
                scores[b] = float("-inf")
                scores[b, allowed] = kept
        picked = (scores if self.draw is None else self.draw(input_ids, scores)).argmax(dim=-1).tolist()
        written_B1 = torch.tensor([[pen.write(token)] for pen, token in zip(self.pens, picked, strict=True)])
        return torch.full_like(scores, float("-inf")).scatter_(1, written_B1.to(scores.device), 0.0)
