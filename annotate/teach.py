"""The stage `teach`: the annotator answers the prompts itself, as data of the plain SFT baseline.

(Multi-Modal Preference Alignment, section 3.2: the baseline that trains on the annotator's own answers.)

    work = TeachWork(prompts=..., settings=..., seed=0, read_image=...)

Same machinery as `annotate`; what is asked is the conversation itself. One line of completions.jsonl:

    {"schema":"completion/1","id":"…","prompt_id":"…","index":0,"text":"Yes, there is a 7.","model":"rules-1",…}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.calls import ReadImage
from annotate.limits import Patience
from annotate.prompting import render_question
from annotate.protocol import Annotator, Request
from annotate.records import Completion, Failure, Prompt, Reason
from annotate.stage import Compiled, Line, Unit
from annotate.work import AskingWork, WorkSettings

STAGE = "teach"


@dataclass(frozen=True, kw_only=True)
class _Question:
    """One request: the conversation, to be answered."""

    prompt: Prompt
    backend: str
    model: str
    decoding: Mapping[str, Any]

    def request(self, attempt: int = 0, room: int = 1) -> Request:
        return render_question(
            self.prompt,
            backend=self.backend,
            model=self.model,
            decoding={**self.decoding, "max_output_tokens": self.decoding["max_output_tokens"] * room},
            images=(),
            attempt=attempt,
        )

    def note(self) -> Mapping[str, Any]:
        return {}

    def readable(self, text: str, cut_off: bool = False) -> bool:
        return bool(text.strip()) and not cut_off


class TeachWork(AskingWork):
    """Work of the stage `teach` (see `annotate.stage`)."""

    def __init__(
        self,
        *,
        prompts: Sequence[Prompt],
        settings: WorkSettings,
        seed: int,
        read_image: ReadImage,
        annotator: Annotator | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Plan one question per prompt; `seed` is sent to the annotator where its decoding is random."""
        super().__init__(settings, read_image, annotator, patience)
        self.settings = settings
        self.decoding: dict[str, Any] = {
            "temperature": settings.temperature,
            "max_output_tokens": settings.max_output_tokens,
            **({"seed": seed} if settings.temperature > 0 else {}),
            **self.lanes[0].traits.decides,
        }
        questions = [
            _Question(prompt=p, backend=settings.backend, model=self.annotator.model, decoding=self.decoding)
            for p in prompts
        ]
        self.units = [Unit(key=q.request().sha256, payload=q) for q in questions]

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        """completions.jsonl and failures.jsonl, in prompt order."""
        made = [self._completion(unit.payload, lines[unit.key]) for unit in self.units]
        completions = [c for c in made if isinstance(c, Completion)]
        failures = [f for f in made if isinstance(f, Failure)]
        return Compiled(
            files={"completions.jsonl": completions, "failures.jsonl": failures},
            units=len(self.units),
            outputs=len(completions),
            failures=len(failures),
            funnel={"prompts": len(self.units), "answered": len(completions)},
            cost_usd=sum(line["cost_usd"] or 0.0 for line in lines.values()),
        )

    def _completion(self, question: _Question, line: Line) -> Completion | Failure:
        prompt_id = question.prompt.id
        if line["reason"] is not None:
            return Failure(stage=STAGE, record_id=prompt_id, reason=Reason(line["reason"]), detail=line["detail"])
        text = line["replies"][-1]["text"] if line["replies"] else ""
        if not question.readable(text):
            return Failure(stage=STAGE, record_id=prompt_id, reason=Reason.COMPLETION_EMPTY, detail="empty reply")
        model = question.model
        return Completion.of(prompt_id=prompt_id, model=model, index=0, text=text, decoding=dict(self.decoding))

    def written(self, pending: Sequence[Unit]) -> int:
        return 300
