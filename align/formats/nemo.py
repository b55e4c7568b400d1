r"""NVIDIA's tools, written only: SteerLM and DPO rows of NeMo-Aligner, preference rows of NeMo-RL. Text without images.

nemo_steerlm     {"system": "", "mask": "User", "type": "VALUE_TO_TEXT", "conversations": [
                   {"from": "User", "value": "Why?", "label": null},
                   {"from": "Assistant", "value": "Because.", "label": "helpfulness:4,correctness:4,..."}]}
nemo_dpo         {"prompt": "<extra_id_0>System\n\n<extra_id_1>User\nWhy?\n<extra_id_1>Assistant\n",
                  "chosen_response": "Because.\n<extra_id_1>", "rejected_response": "No.\n<extra_id_1>"}
nemo_rl          {"context": [{"role": "user", "content": "Why?"}], "completions": [
                   {"rank": 0, "completion": [{"role": "assistant", "content": "Because."}]}, {"rank": 1, ...}]}

NeMo-RL's `PreferenceDataset` adds `task_name` itself, from the file's name, and refuses files that have it already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from align.formats.format import Format, Images, Made
from align.formats.helpsteer import ATTRIBUTES
from align.formats.parts import answer
from align.formats.rated import whole_scores
from annotate.errors import RecordError
from annotate.records import Annotated, PreferencePair, Prompt, Turn

_TURN, _END = "<extra_id_1>", "\n<extra_id_1>"


def _text_only(prompt: Prompt, tool: str) -> tuple[str, Sequence[Turn]]:
    """System text (empty without one) and the other turns. Raises `RecordError` where there are images."""
    if prompt.images:
        raise RecordError(f"prompt: shows {len(prompt.images)} image(s); {tool} trains on text alone: leave it out")
    first, *rest = prompt.turns
    return (first.text, rest) if first.role == "system" else ("", prompt.turns)


def _write_steerlm(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    """One row per completion."""
    assert isinstance(record, Annotated)
    system, turns = _text_only(record.prompt, "NeMo-Aligner")
    before = [{"from": _speaker(turn), "value": turn.text, "label": None} for turn in turns]
    rows = []
    for completion, scores in zip(record.completions, whole_scores(record, "NeMo-Aligner SteerLM"), strict=True):
        text = answer(completion.text, f"completions[{completion.index}]")
        last = {"from": "Assistant", "value": text, "label": _label(scores)}
        rows.append({"system": system, "mask": "User", "type": "VALUE_TO_TEXT", "conversations": [*before, last]})
    return rows


def _speaker(turn: Turn) -> str:
    return "Assistant" if turn.role == "assistant" else "User"


def _label(scores: dict[str, int]) -> str:
    """HelpSteer's attributes in NeMo's order, then others by name."""
    known = [name for name in ATTRIBUTES if name in scores]
    return ",".join(f"{name}:{scores[name]}" for name in [*known, *sorted(set(scores) - set(known))])


def _write_dpo(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    assert isinstance(record, PreferencePair)
    system, turns = _text_only(record.prompt, "NeMo-Aligner")
    said = "".join(f"{_TURN}{_speaker(turn)}\n{turn.text}\n" for turn in turns)
    return [
        {
            "prompt": f"<extra_id_0>System\n{system}\n{said}{_TURN}Assistant\n",
            "chosen_response": answer(record.chosen.text, "chosen") + _END,
            "rejected_response": answer(record.rejected.text, "rejected") + _END,
        }
    ]


def _write_rl(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    assert isinstance(record, PreferencePair)
    _text_only(record.prompt, "NeMo-RL's DPO")
    context = [{"role": turn.role, "content": turn.text} for turn in record.prompt.turns]
    texts = (answer(record.chosen.text, "chosen"), answer(record.rejected.text, "rejected"))
    completions = [
        {"rank": rank, "completion": [{"role": "assistant", "content": text}]} for rank, text in enumerate(texts)
    ]
    return [{"context": context, "completions": completions}]


FORMATS = (
    Format(
        name="nemo_steerlm",
        title="NeMo-Aligner SteerLM: attribute-conditioned conversations, one row per rated completion",
        layout="NVIDIA/NeMo-Aligner af2b3bd9: examples/nlp/data/steerlm/{common,preprocess_helpsteer_data,"
        "process_to_regression_format}.py",
        kinds=("annotated",),
        container="jsonl",
        write=_write_steerlm,
    ),
    Format(
        name="nemo_dpo",
        title="NeMo-Aligner DPO, in its extra_id template",
        layout="NVIDIA/NeMo-Aligner af2b3bd9: docs/user-guide/dpo.rst",
        kinds=("pairs",),
        container="jsonl",
        write=_write_dpo,
    ),
    Format(
        name="nemo_rl",
        title="NeMo-RL preference (PreferenceDataset)",
        layout="NVIDIA-NeMo/RL 7ea279ab: docs/guides/dpo.md, nemo_rl/data/datasets/preference_datasets/"
        "preference_dataset.py",
        kinds=("pairs",),
        container="jsonl",
        write=_write_rl,
    ),
)
