"""What an evaluation says at its end of all that came to nothing: how much, why, and what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from annotate.records import Failure, Reason
from annotate.stage import Line, Unit

SHOWN = 3
"""Reasons that are told; the files have all."""
_AGAIN = "then --retry-failed asks again"
_OF_MODEL = {
    Reason.TOO_LONG: "lower {limit}, or take a model with more positions",
    Reason.IMAGE_MISSING: f"put it there, {_AGAIN}",
    Reason.IMAGE_UNREADABLE: f"mend the image, {_AGAIN}",
}
_OF_JUDGE = {
    Reason.SERVICE.value: "is the judge's server up? --retry-failed asks again",
    Reason.CUT_OFF.value: f"raise evaluate.judge.max_output_tokens, {_AGAIN}",
    Reason.TOO_LONG.value: f"lower evaluate.judge.answer_tokens, or take a judge with more room, {_AGAIN}",
    Reason.UNPARSABLE.value: "see judge_replies.jsonl: does the judge keep to the form it is told?",
}


def not_asked_told(failures: Sequence[Failure], limits: Mapping[str, str]) -> Iterator[str]:
    """The commonest reasons why questions have no answer; `limits`: suite -> the option that bounds its answers."""
    found = Counter(failure.reason for failure in failures)
    for reason, count in found.most_common(SHOWN):
        mine = [failure for failure in failures if failure.reason == reason]
        limit = next((limits[part] for part in mine[0].record_id.split("/") if part in limits), "")
        remedy = _OF_MODEL.get(reason, "see failures.jsonl").format(limit=limit or "evaluate.max_new_tokens")
        yield f"{count} without an answer, {reason.value}: {mine[0].detail}; {remedy}"


def not_judged_told(judged: Sequence[Unit], lines: Mapping[str, Line]) -> Iterator[str]:
    """The commonest reasons why the judge's replies are of no use."""
    settled = [line for unit in judged for line in lines[unit.key]["replies"].values()]
    failed = [line for line in settled if line["outcome"] != "ok"]
    named = [(line["reason"] or Reason.UNPARSABLE.value, line["detail"] or "no grade in the reply") for line in failed]
    for reason, count in Counter(reason for reason, _ in named).most_common(SHOWN):
        detail = next(detail for other, detail in named if other == reason)
        yield f"{count} of {len(settled)} judge calls failed, {reason}: {detail}; {_OF_JUDGE.get(reason, _AGAIN)}"
