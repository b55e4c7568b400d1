"""What the service answers: everything is derived from the texts and image bytes that it RECEIVED.

So a completion that lost its place, or an image that was lost or changed on the way, shows as a wrong score:

    scores = expected_scores("The 7 is red.", [sha256_of_the_image], {"helpfulness": (0, 4)})

An answer is wire-neutral (`Answer`); each wire writes it in its own form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

HELPSTEER: Mapping[str, tuple[int, int]] = {
    name: (0, 4) for name in ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
}


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request as a wire read it."""

    model: str
    system: str = ""
    text: str
    """All other texts, one after the other, as they came."""
    images: tuple[str, ...] = ()
    """sha256 of the bytes of each image, in order."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the wanted reply, with its properties in the order received."""
    json_only: bool = False
    """The whole reply has to be JSON."""
    max_output_tokens: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the wire wants to remember until it writes the answer."""

    @property
    def content(self) -> str:
        """What is asked, as a hash; decoding options are no part of it."""
        parts = json.dumps([self.system, self.text, list(self.images)])
        return hashlib.sha256(parts.encode()).hexdigest()

    @property
    def input_tokens(self) -> int:
        return self.text_tokens + 258 * len(self.images)

    @property
    def text_tokens(self) -> int:
        return (len(self.system) + len(self.text)) // 4


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said."""

    text: str | None
    """None: the candidate has no content."""
    finish: Literal["stop", "length", "safety", "recitation", "unknown"] = "stop"
    candidates: int = 1
    blocked: bool = False
    """The prompt was refused before the model saw it."""
    input_tokens: int
    output_tokens: int = 0
    """Without thoughts."""
    text_tokens: int
    """Of the input, those that are no image's."""
    thought_tokens: int = 0
    response_id: str = ""


# ----------------------------------------------------------------------------------------------------- what is right


def expected_scores(
    completion: str, images: Sequence[str], attributes: Mapping[str, tuple[int, int]] = HELPSTEER
) -> dict[str, int]:
    """The scores of a completion shown with these images (sha256 of their bytes, in order)."""
    return {name: _score(name, completion, images, low, high) for name, (low, high) in attributes.items()}


def expected_preference(first: str, second: str, images: Sequence[str]) -> Literal["first", "second", "tie"]:
    """Which of two completions has the greater sum of helpsteer scores."""
    sums = [sum(expected_scores(text, images).values()) for text in (first, second)]
    return "tie" if sums[0] == sums[1] else "first" if sums[0] > sums[1] else "second"


def expected_answer(text: str, images: Sequence[str]) -> str:
    """The answer to a request that shows no completions, by its text (without the system's) and images."""
    return f"The answer is {_digest(text, images)[:12]}, as far as {len(images)} image(s) show."


def expected_grade(text: str) -> int:
    """The rating, 1 to 10, in the reply to a judge's free-form request with this text (without the system's)."""
    return 1 + int(_digest("grade", text), 16) % 10


def sha256_of(data: bytes) -> str:
    """By which images are known here."""
    return hashlib.sha256(data).hexdigest()


def _score(name: str, completion: str, images: Sequence[str], low: int, high: int) -> int:
    return low + int(_digest(name, completion, images), 16) % (high - low + 1)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- what was received


def shown_completions(text: str) -> list[str]:
    """The completions between the marks `[[xxxxxxxx completion k]]` ... `[[xxxxxxxx end]]`, in the order received."""
    ends = re.findall(r"\[\[([0-9a-f]{8}) end\]\]", text)
    if not ends:
        return []
    pieces = re.split(rf"\n?\[\[{ends[-1]} (?:completion (\d+)|end)\]\]\n?", text)
    numbers, texts = pieces[1::2], pieces[2::2]
    found = [(int(number), shown) for number, shown in zip(numbers, texts, strict=True) if number is not None]
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"completions are numbered {[number for number, _ in found]}")
    return [shown for _, shown in found]


def wanted_attributes(text: str) -> dict[str, tuple[int, int]]:
    """Attributes and their scales from the form that the prompt asks for; none in a pairwise one."""
    found = re.findall(r'"(\w+)": <(-?\d+) to (-?\d+)>', text)
    return {name: (int(low), int(high)) for name, low, high in found}


# ----------------------------------------------------------------------------------------------------------- answers


def answer_of(received: Received, kind: str, *, thought_tokens: int = 0, response_id: str = "") -> Answer:
    """The answer of this kind (`behaviour.ANSWERS`). Raises ValueError where the request cannot be understood."""
    used = {"input_tokens": received.input_tokens, "text_tokens": received.text_tokens, "response_id": response_id}
    if kind == "blocked":
        return Answer(text=None, candidates=0, blocked=True, **used)
    if kind == "no_candidates":
        return Answer(text=None, candidates=0, **used)
    if kind == "safety":
        return Answer(text=None, finish="safety", **used)
    if kind == "recitation":
        return Answer(text=None, finish="recitation", **used)
    if kind == "empty_text":
        return Answer(text="", **used)
    if kind == "thoughts_only":
        return Answer(text=None, finish="length", thought_tokens=received.max_output_tokens or 1024, **used)
    text = _text_of(received, kind)
    finish: Any = {"max_tokens": "length", "unknown_finish": "unknown"}.get(kind, "stop")
    limit = received.max_output_tokens
    if kind == "max_tokens":
        text = text[: len(text) // 2]
    elif limit is not None and thought_tokens + _tokens(text) > limit:
        text, finish = text[: 4 * max(0, limit - thought_tokens)], "length"
    thought_tokens = min(thought_tokens, limit or thought_tokens)
    return Answer(text=text or None, finish=finish, output_tokens=_tokens(text), thought_tokens=thought_tokens, **used)


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


def _text_of(received: Received, kind: str) -> str:
    completions = shown_completions(received.text)
    if not completions and (said := _judged(received)):
        return said if kind != "broken_json_text" else "I would rather not say."
    if not completions:
        answer = expected_answer(received.text, received.images)
        return json.dumps({"answer": answer}) if received.json_only and received.schema is not None else answer
    attributes = wanted_attributes(received.system + received.text)
    reasoning = f"I looked at {len(received.images)} image(s) and at {len(completions)} completion(s) one by one."
    wanted: dict[str, Any] = {"reasoning": reasoning}
    if attributes:
        rows = [_entry(i, text, received.images, attributes) for i, text in enumerate(completions, 1)]
        wanted["ratings"] = rows[::-1] if kind == "shuffled" else rows
        if kind == "wrong_schema":
            for row in rows:
                row.update({name: high + 5 for name, (_, high) in attributes.items()})
    elif len(completions) == 2:
        wanted["preference"] = "both" if kind == "wrong_schema" else expected_preference(*completions, received.images)
    else:
        raise ValueError(f"the prompt asks for no scores, yet shows {len(completions)} completion(s)")
    written = json.dumps(_in_order(wanted, received.schema or {}), ensure_ascii=False)
    if kind == "broken_json_text":
        return written[: len(written) * 2 // 3]
    if kind == "fenced":
        return f"{reasoning}\n\n```json\n{written}\n```\n"
    return written if received.json_only else f"{reasoning}\n\n{written}"


def _judged(received: Received) -> str:
    """What a judge says who was asked for a form of reply in words; empty where none was asked for."""
    asked, grade = received.system + received.text, expected_grade(received.text)
    if "[[C]]" in asked:
        return f"I weighed both. [[{'ABC'[grade % 3]}]]"
    if "Rating: [[" in asked:
        return f"It could be better. Rating: [[{grade}]]"
    if "Reply with the number" in asked:
        return f"0.{grade - 1}"
    if "holds two numbers" in asked:
        return f"{1 + (grade + 4) % 10} {grade}\nThe first says less."
    return ""


def _entry(
    number: int, completion: str, images: Sequence[str], attributes: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    rationale = f"It has {len(completion.split())} word(s)."
    return {"completion": number, "rationale": rationale, **expected_scores(completion, images, attributes)}


def _in_order(value: Any, schema: Mapping[str, Any]) -> Any:
    """Objects with their fields in the schema's order, as constrained decoding writes them."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        order = [name for name in schema.get("propertyOrdering", properties) if name in value]
        return {n: _in_order(value[n], properties.get(n, {})) for n in [*order, *(n for n in value if n not in order)]}
    if isinstance(value, list):
        return [_in_order(item, schema.get("items", {})) for item in value]
    return value
