"""Sample cards: a prompt with its image, the completions, their scores and reasons, and the pair made of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from align.report.gather import Findings
from annotate.pixels import rgb
from annotate.records import Annotated, PreferencePair

THUMBNAIL = 240
"""Pixels of the longer side at most; small images are enlarged by the page, without blurring."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One completion as a card shows it."""

    text: str
    total: float | None
    scores: Mapping[str, float]
    reason: str
    role: str
    """chosen, rejected, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Card:
    source: str
    turns: Sequence[tuple[str, str]]
    """Role and text of the prompt's turns."""
    images: Sequence[str]
    """`data:` URIs."""
    answers: Sequence[Answer]
    reasoning: str
    margin: float | None


def make_cards(findings: Findings, n: int) -> list[Card]:
    """N cards spread evenly over sources and over the run: every source in turn, first those that gave a pair."""
    pairs = {pair.prompt.id: pair for pair in reversed(findings.pairs)}
    by_source: dict[str, list[Annotated]] = {}
    for row in findings.annotated:
        by_source.setdefault(row.prompt.source, []).append(row)
    queues = [_spread([r for r in rows if r.prompt.id in pairs] or rows, n) for rows in by_source.values()]
    picked = [queue[i] for i in range(n) for queue in queues if i < len(queue)][:n]
    return [make_card(row, pairs.get(row.prompt.id), findings) for row in picked]


def _spread(rows: Sequence[Annotated], n: int) -> list[Annotated]:
    """N rows at even distances."""
    if len(rows) <= n:
        return list(rows)
    return [rows[i * len(rows) // n] for i in range(n)]


def make_card(row: Annotated, pair: PreferencePair | None, findings: Findings) -> Card:
    """Everything as text, to be escaped by the page."""
    scores = row.scores()
    roles = {} if pair is None else {pair.chosen.id: "chosen", pair.rejected.id: "rejected"}
    reasons = {r.completion_id: r.rationale for a in reversed(row.annotations) for r in a.ratings}
    answers = []
    for completion in row.completions:
        found = scores.get(completion.id)
        answers.append(
            Answer(
                text=completion.text,
                total=sum(found[name] for name in findings.score)
                if found and set(findings.score) <= set(found)
                else None,
                scores=found or {},
                reason=reasons.get(completion.id, ""),
                role=roles.get(completion.id, ""),
            )
        )
    images = [
        uri for image in row.prompt.images if (uri := thumbnail(findings.image_root / image.path, findings.image_limit))
    ]
    return Card(
        source=row.prompt.source,
        turns=[(turn.role, turn.text.replace("<image>", "").strip()) for turn in row.prompt.turns],
        images=images,
        answers=answers,
        reasoning=row.annotations[0].reasoning if row.annotations else "",
        margin=None if pair is None else pair.margin,
    )


def thumbnail(path: Path, limit: int) -> str:
    """The image as a small PNG in a `data:` URI; nothing where it has gone or is too large to open."""
    try:
        small = rgb(path, max_pixels=limit)
    except OSError:
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
