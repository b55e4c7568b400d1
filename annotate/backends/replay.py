"""`replay`: recorded replies instead of a service. Free, without a network, and the same each time.

    annotate: {backend: replay, options: {file: runs/a/annotate/replies.jsonl}}

`file` is JSON Lines of any of three kinds:

    {"prompt_id": "…", "shown_order": ["…", "…"], "pass_index": 0, "text": "…"}   replies.jsonl of the stage `annotate`
    {"schema": "annotated/1", …}                                                  its annotated.jsonl
    {"schema": "completion/1", …}                                                 completions.jsonl of the stage `teach`

A text rates completions by their place in the list, so it answers only a request that shows the same completions in the
same order; annotated.jsonl knows whose scores they are, so it answers in any order. A request that the file has no
answer to becomes a Failure `not_recorded`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.errors import RecordError, UserError
from annotate.jsonl import read_rows
from annotate.prompting import Rated, write_reply
from annotate.protocol import Outcome, Reply, Request, Traits
from annotate.records import Annotated, Annotation, Completion, Reason


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """One reply: its text, or the annotation that was made of it."""

    key: tuple[str, tuple[str, ...] | frozenset[str], int]
    """Prompt, completions (in order, or in any where the annotation is at hand), pass."""
    text: str = ""
    annotation: Annotation | None = None
    usage: Mapping[str, int]
    model_version: str


class Replay:
    """Answers from a file; `model` names the file's content, so that other content is another annotator."""

    paid = False
    traits = Traits(deterministic=True, paced=False)

    def __init__(self, *, file: str, model: str = "") -> None:
        path = Path(file)
        self._recorded: dict[object, _Recorded] = {}
        faults = []
        for number, row in read_rows(path):
            try:
                for recorded in _read(row):
                    if recorded.key in self._recorded:
                        raise RecordError(f"a second reply for prompt {recorded.key[0]}, pass {recorded.key[2]}")
                    self._recorded[recorded.key] = recorded
            except RecordError as error:
                faults.append(f"{file}:{number}: {error}")
        if faults:
            raise UserError(*faults)
        self.model = f"{model or 'recorded'}@{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"

    async def reply(self, request: Request) -> Reply:
        shown = tuple(c.id for c in request.completions)
        for which in (shown, frozenset(shown)):
            recorded = self._recorded.get((request.prompt.id, which, request.pass_index))
            if recorded is not None:
                text = _rewritten(recorded.annotation, shown) if recorded.annotation else recorded.text
                usage, version = recorded.usage, recorded.model_version
                return Reply(outcome=Outcome.OK, text=text, usage=usage, model_version=version)
        detail = "the file has no reply for this prompt with these completions in this order and this pass"
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.NOT_RECORDED, detail=detail)


def _read(row: Any) -> Iterator[_Recorded]:
    """The replies that one line holds. Raises `RecordError`."""
    schema = row.get("schema") if isinstance(row, dict) else None
    if schema == Annotated.SCHEMA:
        for a in Annotated.from_json(row).annotations:
            key = (a.prompt_id, frozenset(a.shown_order), a.pass_index)
            yield _Recorded(key=key, annotation=a, usage=a.usage, model_version=a.model_version)
    elif schema == Completion.SCHEMA:
        completion = Completion.from_json(row)
        key_of_it = (completion.prompt_id, (), 0)
        yield _Recorded(key=key_of_it, text=completion.text, usage={}, model_version=completion.model)
    else:
        yield _read_reply(row)


_REPLY_FIELDS: dict[str, Any] = {
    "prompt_id": None,
    "text": None,
    "shown_order": [],
    "pass_index": 0,
    "usage": {},
    "model_version": "",
}


def _read_reply(row: Any) -> _Recorded:
    if not isinstance(row, dict):
        raise RecordError("expected a JSON object with prompt_id and text")
    unknown = sorted(set(row) - set(_REPLY_FIELDS))
    if unknown:
        raise RecordError(f"unknown field {', '.join(map(repr, unknown))}; known are {', '.join(_REPLY_FIELDS)}")
    whole = {**_REPLY_FIELDS, **row}
    texts = [whole[name] for name in ("prompt_id", "text", "model_version")]
    if not all(isinstance(text, str) for text in texts) or type(whole["pass_index"]) is not int:
        raise RecordError("prompt_id, text and model_version must be text, pass_index a whole number")
    if not isinstance(whole["shown_order"], list) or not isinstance(whole["usage"], dict):
        raise RecordError("shown_order must be a list of completion ids, usage an object")
    key = (whole["prompt_id"], tuple(map(str, whole["shown_order"])), whole["pass_index"])
    return _Recorded(key=key, text=whole["text"], usage=whole["usage"], model_version=whole["model_version"])


def _rewritten(annotation: Annotation, shown: tuple[str, ...]) -> str:
    """The annotation as a reply about completions shown in another order."""
    if annotation.preference is not None:
        swapped = {"first": "second", "second": "first"}
        same = shown == annotation.shown_order
        preference = annotation.preference if same else swapped.get(annotation.preference, "tie")
        return write_reply(annotation.reasoning, preference=preference)  # type: ignore[arg-type]
    ratings = {r.completion_id: r for r in annotation.ratings}
    rated = [Rated(scores=ratings[i].scores, rationale=ratings[i].rationale) for i in shown]
    return write_reply(annotation.reasoning, rated)
