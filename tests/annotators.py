"""Annotators written out for tests, and what it takes to put completions before them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.settings import Annotate
from annotate.limits import Patience
from annotate.prompting import Rated, write_reply
from annotate.protocol import Annotator, Outcome, Reply, Request, Traits
from annotate.records import Annotated, Completion, Image, Prompt, Turn
from annotate.run import AnnotateWork
from annotate.teach import TeachWork

HASTE = Patience(first_seconds=0.001, longest_seconds=0.004, pauses=3)
SEVEN = Image(path="7.png", sha256=hashlib.sha256(b"seven").hexdigest())
SCENE = {"form": "sentence", "claims": [{"vocabulary": ["red", "blue"], "truth": ["red"]}]}


def prompt(question: str, *, image: bool = False, **rest: Any) -> Prompt:
    turn = Turn(role="user", text=f"<image>\n{question}" if image else question, images=(SEVEN,) if image else ())
    return Prompt.of((turn,), **{"meta": {"answer_key": SCENE}, **rest})


def answers(to: Prompt, *texts: str) -> list[Completion]:
    return [Completion.of(prompt_id=to.id, model="vlm", index=i, text=text) for i, text in enumerate(texts)]


def read_image(image: Image) -> bytes:
    return {"7.png": b"seven"}[image.path]


def quiet(done: int, total: int, note: str = "") -> None:
    pass


def run_work(work: AnnotateWork | TeachWork, workspace: Path) -> tuple[dict[str, Any], Any]:
    """Execute all units and compile: the journal lines and what the stage hands on."""
    lines: dict[str, Any] = {}
    work.execute(work.units, lines.__setitem__, workspace, quiet)
    return lines, work.compile(lines, workspace)


def quality(record: Annotated) -> list[float]:
    """Helpfulness + correctness + coherence of each completion."""
    scores = record.scores()
    return [sum(scores[c.id][n] for n in ("helpfulness", "correctness", "coherence")) for c in record.completions]


class Listed:
    """An annotator that answers with the replies of a list, one after the other, and then with full marks."""

    paid = False
    model = "listed"
    traits = Traits(paced=False)

    def __init__(self, *replies: Reply | str | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []

    async def reply(self, request: Request) -> Reply:
        self.requests.append(request)
        reply = self.replies.pop(0) if self.replies else full_marks(request)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(outcome=Outcome.OK, text=reply)


class Priced(Listed):
    """It costs a cent each time."""

    paid = True

    def cost_usd(self, usage: Mapping[str, int]) -> float | None:
        return 0.01


def full_marks(request: Request) -> str:
    marks = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 4)
    return write_reply("Fine.", [Rated(scores=marks)] * len(request.completions))


def annotate(tmp_path: Path, annotator: Annotator, prompts: Sequence[Prompt], **settings: Any) -> tuple[Any, Any]:
    completions = [c for p in prompts for c in answers(p, "It is red.", "It is blue.")]
    work = AnnotateWork(
        prompts=prompts,
        completions=completions,
        settings=Annotate(**{"workers": 1, **settings}),
        seed=0,
        read_image=read_image,
        annotator=annotator,
        patience=HASTE,
    )
    return run_work(work, tmp_path)
