r"""UltraFeedback: four completions a row, each rated 1 to 5 on four aspects, in words and digits. Read only.

    {"source": "sharegpt", "instruction": "Name a fruit.", "models": ["gpt-4", ...], "completions": [
        {"model": "gpt-4", "principle": "helpfulness", "custom_system_prompt": "...", "response": "A pear.",
         "annotations": {"helpfulness": {"Rating": "5", "Rationale": "...", "Type": ["1"], ...}, ...},
         "critique": "...", "overall_score": 8.5}, ...]}

A rating of "N/A", or none, leaves the completion unrated. `overall_score` is never used: its parser once made 10 of 1
for some 2,000 completions (OpenBMB/UltraFeedback#8); the aspects, from which their authors mended it, are. It and all
other keys are kept in the prompt's meta. The system prompt under which a completion was written is not shown to later
models, so it is no turn of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.formats.format import Format, Images, Made, Row
from align.formats.messages import kind, said
from align.formats.parts import prompt_from, text_in
from align.formats.rated import Answer, annotated_of, shipped_rubric
from annotate.errors import RecordError

NAME = "ultrafeedback"
ASPECTS = {name: name for name in ("instruction_following", "honesty", "truthfulness", "helpfulness")}
_UNRATED = ("N/A", None)


def _recognises(row: Row) -> bool:
    return "instruction" in row and "models" in row and "completions" in row


def _read(row: Row, images: Images) -> Sequence[Made]:
    text = text_in(row, "instruction")
    completions = completions_of(row)
    answers = [answer_in(value, ASPECTS, f"completions[{i}]") for i, value in enumerate(completions)]
    more = {key: value for key, value in row.items() if key not in ("instruction", "source", "completions")}
    of_each = [
        {key: value for key, value in completion.items() if key not in ("model", "response", "annotations")}
        for completion in completions
    ]
    meta = {NAME: {**more, "completions": of_each}}
    source = said(row.get("source", ""), "source")
    prompt = prompt_from([("user", text)], (), where="instruction", source=source, meta=meta)
    return [annotated_of(prompt, answers, rubric=shipped_rubric(NAME), backend=NAME, model="gpt-4")]


def completions_of(row: Row) -> Sequence[Mapping[str, Any]]:
    found = row.get("completions")
    if not isinstance(found, list) or not found or not all(isinstance(each, Mapping) for each in found):
        raise RecordError(f"completions: expected a list of objects, got {kind(found)}")
    return found


def answer_in(completion: Mapping[str, Any], aspects: Mapping[str, str], where: str) -> Answer:
    """A completion and its scores, aspects by our names; unrated where one of them is."""
    annotations = completion.get("annotations") or {}
    if not isinstance(annotations, Mapping):
        raise RecordError(f"{where}.annotations: expected an object, aspects by name, got {kind(annotations)}")
    scores: dict[str, int] = {}
    reasons = []
    for theirs, ours in aspects.items():
        rated = annotations.get(theirs)
        score = rating(rated, f"{where}.annotations.{theirs}")
        if rated is not None and score is not None:
            scores[ours] = score
            reasons.append(reason(rated, ours))
    text, model = (said(completion.get(key), f"{where}.{key}") for key in ("response", "model"))
    if len(scores) < len(aspects):
        return Answer(text=text, model=model)
    return Answer(text=text, model=model, scores=scores, rationale="\n".join(filter(None, reasons)))


def rating(rated: Any, where: str) -> int | None:
    """The points of one aspect; None where it was not rated. Raises `RecordError` for anything that is no point."""
    if rated is None:
        return None
    if not isinstance(rated, Mapping):
        raise RecordError(f"{where}: expected an object with 'Rating', got {kind(rated)}")
    value = rated.get("Rating")
    if value in _UNRATED:
        return None
    if not isinstance(value, str) or value not in ("1", "2", "3", "4", "5"):
        raise RecordError(f"{where}.Rating: {value!r} is none of '1' to '5' or 'N/A'; mend it, or drop the row")
    return int(value)


def reason(rated: Mapping[str, Any], aspect: str) -> str:
    """The annotator's words for one aspect: those for the rating where there are two kinds."""
    words = rated.get("Rationale For Rating") or rated.get("Rationale")
    return f"{aspect}: {words}" if isinstance(words, str) and words else ""


FORMAT = Format(
    name=NAME,
    title="UltraFeedback: completions with GPT-4's ratings on four aspects, 1 to 5",
    layout="OpenBMB/UltraFeedback bf80fd46: README.md, src/data_annotation/annotate_preference.py",
    kinds=("annotated",),
    container="jsonl",
    recognises=_recognises,
    read=_read,
)
