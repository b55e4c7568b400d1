"""From what the service saw and what the client handed over to the figures of the table.

Nothing here trusts the client: scores are compared with those that follow from the completion and the image on disk,
calls are counted by the service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loopback import expected_scores
from loopback.answers import Received

from align.settings import Annotate
from annotate.jsonl import read_records
from annotate.prompting import ReplyError, parse_reply
from annotate.protocol import Request
from annotate.records import Annotated, Completion, Prompt
from annotate.run import AnnotateWork
from bench.annotate_rig.world import World

Scores = list[dict[str, int]]


@dataclass(frozen=True)
class Asked:
    """What is to be asked about a world, known beforehand: one request a row."""

    world: World

    @cached_property
    def requests(self) -> list[Request]:
        work = AnnotateWork(
            prompts=self.world.prompts,
            completions=self.world.completions,
            settings=Annotate(backend="rules"),
            seed=0,
            read_image=lambda image: b"",
        )
        return [unit.payload.request() for unit in work.units]

    @cached_property
    def contents(self) -> list[str]:
        """What the service will call each row."""
        return [
            Received(
                model="",
                system=_text(request, "system"),
                text=_text(request, "user"),
                images=tuple(image.sha256 for image in request.prompt.images),
            ).content
            for request in self.requests
        ]

    def write_rows(self, file: Path) -> None:
        """The same requests for a peer: system text, the user's text before and behind the image, and the image."""
        with file.open("w") as stream:
            for i, request in enumerate(self.requests):
                parts = request.messages[1].parts
                at = next(n for n, part in enumerate(parts) if part.kind == "image")
                row = {
                    "key": str(i),
                    "system": _text(request, "system"),
                    "before": "".join(p.text for p in parts[:at]),
                    "after": "".join(p.text for p in parts[at + 1 :]),
                    "image": str(self.world.folder / "images" / request.prompt.images[0].path),
                }
                stream.write(json.dumps(row) + "\n")


def _text(request: Request, role: str) -> str:
    return "".join(part.text for m in request.messages if m.role == role for part in m.parts)


# ----------------------------------------------------------------------------------------------------- what came out


def delivered_by_us(asked: Asked) -> dict[str, Scores]:
    """Content -> the scores handed over, completions in the order of their index."""
    content = {r.prompt.id: c for r, c in zip(asked.requests, asked.contents, strict=True)}
    file = asked.world.run / "annotate" / "annotated.jsonl"
    if not file.exists():
        return {}
    found = {}
    for record in read_records(file, Annotated):
        given = {r.completion_id: r.scores for a in record.annotations for r in a.ratings}
        found[content[record.prompt.id]] = [given[c.id] for c in record.completions]
    return found


def delivered_by_peer(asked: Asked, out: Path) -> dict[str, Scores]:
    """The same from a peer's raw texts; those that cannot be read are not delivered."""
    work = AnnotateWork(
        prompts=(), completions=(), settings=Annotate(backend="rules"), seed=0, read_image=lambda image: b""
    )
    found: dict[str, Scores] = {}
    for line in out.read_text().splitlines() if out.exists() else []:
        row = json.loads(line)
        request = asked.requests[int(row["key"])]
        try:
            parsed = parse_reply(row["text"] or "", len(request.completions), work.rubric)
        except ReplyError:
            continue
        by_id = {c.id: r.scores for c, r in zip(request.completions, parsed.ratings, strict=True)}
        in_order = sorted(request.completions, key=lambda c: c.index)
        found[asked.contents[int(row["key"])]] = [by_id[c.id] for c in in_order]
    return found


def right_scores(prompt: Prompt, completions: Sequence[Completion]) -> Scores:
    images = [image.sha256 for image in prompt.images]
    return [expected_scores(c.text, images) for c in sorted(completions, key=lambda c: c.index)]


def figures(asked: Asked, stats: Mapping[str, Any], delivered: Mapping[str, Scores], best: float) -> dict[str, Any]:
    """One run in numbers; `best` is the oracle's span."""
    of = {c: r for c, r in zip(asked.contents, asked.requests, strict=True)}
    span = span_of(stats)
    wrong = sum(right_scores(of[c].prompt, of[c].completions) != scores for c, scores in delivered.items())
    return {
        "span": round(span, 3),
        "oracle": round(best, 3),
        "ratio": round(span / best, 4),
        "rows": len(of),
        "delivered": len(delivered),
        "wrong_scores": wrong,
        "admitted": stats["admitted"],
        "rejected": stats["rejected"],
        "rejected_share": round(stats["rejected"] / max(1, stats["admitted"] + stats["rejected"]), 4),
        "duplicates": stats["duplicates"],
        "paid_lost": len(set(stats["paid"]) - set(delivered)),
        "refused": stats["refused"],
        "not_as_planned": sum(bool(a["content"]) and a["content"] not in of for a in stats["arrivals"]),
        "first_second": first_second(stats),
        "most_in_flight": stats["max_in_flight"],
    }


def span_of(stats: Mapping[str, Any]) -> float:
    """Seconds from the first request that is understood to the last answer."""
    meant = [a for a in stats["arrivals"] if a["kind"] != "refused"]
    answered = [a["at"] + a["seconds"] for a in meant if "attempt" in a]
    return max(answered) - meant[0]["at"] if answered else 0.0


def first_second(stats: Mapping[str, Any]) -> int:
    """How many calls came within a second of the first one."""
    times = [a["at"] for a in stats["arrivals"]]
    return sum(at - times[0] < 1.0 for at in times)
