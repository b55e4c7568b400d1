r"""The one place that turns messages into text: the bytes that sampler, trainer and evaluator all see.

    render_prompt([user "<image>\nIs there a 7?"])   ->  "<s>USER: <image>\nIs there a 7? ASSISTANT:"
    render_completion("Yes.")                        ->  " Yes.</s>"

    two turns: "<s>USER: q1 ASSISTANT: a1</s>USER: q2 ASSISTANT:"

It is the Vicuna template (arXiv:2304.08485, Table 2) with BOS and EOS spelled out (Llama's here; a language model of
another family gets its own), so it is to be tokenised with
`add_special_tokens=False`. A prompt is always a string prefix of prompt + completion. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence

from annotate.records import Turn

BOS, EOS = "<s>", "</s>"
_BEFORE_REPLY = " ASSISTANT:"
JINJA = """\
{{ bos_token or '' }}{% for message in messages %}\
{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %} {% endif %}\
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}\
{% if message['role'] == 'user' %} ASSISTANT:{% elif message['role'] == 'assistant' %}{{ eos_token }}\
{% else %} {% endif %}{% endfor %}"""
"""The same for other tools, with the tokenizer's own markers: lies beside the VLMs that we put together."""


def render_prompt(turns: Sequence[Turn], *, bos: str = BOS, eos: str = EOS) -> str:
    """Turns that end with the user's, as the text after which the model is to answer."""
    parts = [bos]
    for turn in turns:
        if turn.role == "assistant":
            parts.append(render_completion(turn.text, eos=eos))
        elif turn.role == "user":
            parts.append(f"USER: {turn.text}{_BEFORE_REPLY}")
        else:
            parts.append(f"{turn.text} ")
    return "".join(parts)


def render_completion(text: str, *, eos: str = EOS) -> str:
    """The answer with its end marker: what the loss falls on."""
    return f" {text}{eos}"


def render(turns: Sequence[Turn], completion: str | None = None) -> str:
    """Prompt, and the answer after it where one is given."""
    return render_prompt(turns) + ("" if completion is None else render_completion(completion))
