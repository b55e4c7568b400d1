"""Questions whose choices carry labels, as ARC and CommonsenseQA have them: in their own files and on the hub.

{"id": "…", "question": {"stem": "…", "choices": [{"text": "…", "label": "A"}, …]}, "answerKey": "B"}      a file
{"id": "…", "question": "…", "choices": {"text": ["…", …], "label": ["A", …]}, "answerKey": "B"}           the hub
"""

from __future__ import annotations

from typing import Any

from sources import Excluded, Raw, Row, id_of, list_of, multiple_choice, optional_text, text_of, texts_of

from annotate.errors import RecordError


def chosen(raw: Raw, **rest: Any) -> Row | Excluded:
    """The row, its answer found by its label; labels may be letters or digits."""
    own_id, key = id_of(raw, "id"), optional_text(raw, "answerKey")
    nested = raw.get("question")
    if isinstance(nested, dict):
        question = text_of(nested, "stem")
        entries = list_of(nested, "choices")
        if not all(isinstance(entry, dict) for entry in entries):
            raise RecordError("field 'choices' holds something other than objects with text and label")
        choices, labels = [text_of(entry, "text") for entry in entries], [id_of(entry, "label") for entry in entries]
    else:
        question, columns = text_of(raw, "question"), raw.get("choices")
        if not isinstance(columns, dict):
            raise RecordError("field 'choices' is not an object with text and label")
        choices, labels = texts_of(columns, "text"), texts_of(columns, "label")
    if not key:  # test splits are published without
        return Excluded("no answer")
    if key not in labels or len(labels) != len(choices):
        raise RecordError(f"answerKey {key!r} is none of the {len(choices)} choices' labels {labels}")
    return multiple_choice(
        id=own_id,
        question=question.strip(),
        choices=[text.strip() for text in choices],
        index=labels.index(key),
        **rest,
    )
