"""Plain fine-tuning on the annotator's own answers: the 'Standard SFT' baseline.

Multi-Modal Preference Alignment excludes it from its method in section 3 but reports it in Table 2; here it is a
baseline, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from align.pairs.score import STAGE
from annotate.records import Completion, Example, Failure, Prompt, Reason


def build_teacher_examples(prompts: Iterable[Prompt], completions: Iterable[Completion]) -> Iterator[Example | Failure]:
    """One example per answered prompt, in the order of the prompts; of several answers the first that holds text."""
    answers: dict[str, list[Completion]] = {}
    for completion in completions:
        answers.setdefault(completion.prompt_id, []).append(completion)
    for prompt in prompts:
        given = sorted(answers.get(prompt.id, []), key=lambda c: (c.index, c.id))
        answer = next((c for c in given if c.text.strip()), None)
        if answer is not None:
            meta = {"completion_id": answer.id, "model": answer.model}
            yield Example.of(prompt=prompt, completion=answer.text, source="teacher", meta=meta)
        elif given:
            yield Failure(stage=STAGE, record_id=prompt.id, reason=Reason.COMPLETION_EMPTY, detail="empty answer")
        else:
            yield Failure(stage=STAGE, record_id=prompt.id, reason=Reason.COMPLETIONS_MISSING, detail="no answer")
