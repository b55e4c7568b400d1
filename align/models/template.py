r"""The one place that turns messages into text: the bytes that sampler, trainer and evaluator all see.

    render_prompt([user "<image>\nIs there a 7?"])   ->  "<s>USER: <image>\nIs there a 7? ASSISTANT:"
    render_completion("Yes.")                        ->  " Yes.</s>"

    two turns: "<s>USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT:"

It is the Vicuna template (arXiv:2304.08485, Table 2) with BOS and EOS spelled out, so it is to be tokenised with
`add_special_tokens=False`. A prompt is always a string prefix of prompt + completion. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

from annotate.records import Turn

BOS, EOS = "<s>", "</s>"
_BEFORE_REPLY = " ASSISTANT:"


def render_prompt(turns: Sequence[Turn]) -> str:
    """Turns that end with the user's, as the text after which the model is to answer."""
    parts = [BOS]
    for turn in turns:
        if turn.role == "assistant":
            parts.append(render_completion(turn.text))
        elif turn.role == "user":
            parts.append(f"USER: {turn.text}{_BEFORE_REPLY}")
        else:
            parts.append(f"{turn.text} ")
    return "".join(parts)


def render_completion(text: str) -> str:
    """The answer with its end marker: what the loss falls on."""
    return f" {text}{EOS}"


def render(turns: Sequence[Turn], completion: str | None = None) -> str:
    """Prompt, and the answer after it where one is given."""
    return render_prompt(turns) + ("" if completion is None else render_completion(completion))
