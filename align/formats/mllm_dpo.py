r"""The JSON that mllm-dpo trains on, with reference log-probabilities; RLHF-V's own trainer has the same fields.

    {"image": "cat.jpg", "question": {"from": "human", "value": "<image>\nWhat is it?"},
     "chosen": {"from": "gpt", "value": "A cat."}, "rejected": {"from": "gpt", "value": "A dog."},
     "ref_win_logp": -3.1, "ref_win_avg_logp": -0.8, "ref_win_per_token_logp": [-0.2, …], "ref_rej_logp": -9.0, …}

`question` may also be the Python text of that dictionary, as pandas leaves it behind. In longer dialogues `chosen` and
`rejected` are lists of all turns, and there is no `question`. The log-probabilities go to the pair's
`meta["reference"]`; those per token run over the whole sequence, prompt and image positions included. Where both sums
of scores are there (`Sum_of_helpfulness_correctness_coherence_gpt4v`, `…_candidate`), their difference is the margin.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from align.formats.format import Format, Images, Made, Row
from align.formats.llava import conversation, turn_in, turns_in
from align.formats.parts import (
    Role,
    agrees_with,
    at_most_one_image,
    one_image,
    pair_from,
    pair_of,
    prompt_from,
    reference_from,
    restored,
    six_of,
    with_beyond,
)
from annotate.errors import RecordError
from annotate.records import PreferencePair

REFERENCE_FIELDS = tuple(
    f"ref_{side}_{name}" for side in ("win", "rej") for name in ("logp", "avg_logp", "per_token_logp")
)
LITERAL_LIMIT = 100_000
"""Characters of a question that are still parsed as Python; deep nesting costs memory."""
_SUMS = tuple(f"Sum_of_helpfulness_correctness_coherence_{who}" for who in ("gpt4v", "candidate"))
_KNOWN = {"image", "question", "chosen", "rejected", *REFERENCE_FIELDS}


def _read(row: Row, images: Images) -> Sequence[Made]:
    turns, chosen, rejected = _dialogues(row)
    path = one_image(row)
    shown = [] if path is None else [images.named(path)]
    prompt = prompt_from(turns, shown, where="chosen" if isinstance(row["chosen"], list) else "question")
    reference = reference_from([row.get(field) for field in REFERENCE_FIELDS], REFERENCE_FIELDS)
    pair = pair_from(
        prompt,
        chosen,
        rejected,
        rule="mllm_dpo",
        margin=_margin(row),
        meta={"reference": reference} if reference else None,
    )
    return [with_beyond(pair, "mllm_dpo", row, _plain(pair))]


def _dialogues(row: Row) -> tuple[Sequence[tuple[Role, str]], str, str]:
    """The turns before the answers, and both answers."""
    for field in ("chosen", "rejected"):
        if field not in row:
            raise RecordError(f"{field}: missing; every row needs it")
    if isinstance(row["chosen"], list):
        better, worse = (turns_in(row[field], field) for field in ("chosen", "rejected"))
        if better[:-1] != worse[:-1]:
            raise RecordError(
                "rejected: its turns before the last answer are not those of chosen; a pair has one prompt"
            )
        return better[:-1], _said(better[-1], "chosen"), _said(worse[-1], "rejected")
    answers = [_said(turn_in(row[field], field), field) for field in ("chosen", "rejected")]
    if "question" not in row:
        raise RecordError("question: missing; every row needs it, unless chosen and rejected are lists of all turns")
    asked = turn_in(_literal(row["question"]), "question")
    if asked[0] != "user":
        raise RecordError(f'question.from: expected "human", got {row["question"]!r:.60}')
    return [asked], answers[0], answers[1]


def _said(turn: tuple[Role, str], field: str) -> str:
    if turn[0] != "assistant":
        raise RecordError(f'{field}: expected an answer, {{"from": "gpt", "value": "..."}}, last; got a {turn[0]} turn')
    return turn[1]


def _literal(question: Any) -> Any:
    """The question's dictionary, also where it stands as Python text."""
    if not isinstance(question, str):
        return question
    if len(question) > LITERAL_LIMIT:
        raise RecordError(
            f"question: {len(question)} characters of Python text, more than {LITERAL_LIMIT}; make it JSON"
        )
    try:
        with warnings.catch_warnings():  # of odd backslashes, which are kept
            warnings.simplefilter("ignore")
            found = ast.literal_eval(question)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise RecordError(
            'question: text that is no Python dictionary; write {"from": "human", "value": "..."}, or its Python text'
        )
    return found


def _margin(row: Row) -> float | None:
    sums = [row.get(field) for field in _SUMS]
    if any(isinstance(s, bool) or not isinstance(s, int | float) or not math.isfinite(s) for s in sums):
        return None
    return float(sums[0]) - float(sums[1])  # type: ignore[arg-type]


def _plain(pair: PreferencePair) -> dict[str, Any]:
    image = at_most_one_image(pair.prompt, "mllm_dpo")
    row: dict[str, Any] = {} if image is None else {"image": image.path}
    better, worse = (conversation(pair.prompt, answer.text) for answer in (pair.chosen, pair.rejected))
    if len(better) == 2:
        row |= {"question": better[0], "chosen": better[1], "rejected": worse[1]}
    else:
        row |= {"chosen": better, "rejected": worse}
    six = zip(REFERENCE_FIELDS, six_of(pair.meta.get("reference")), strict=True)
    return row | {field: value for field, value in six if value is not None}


def _write(record: Made, images: Images) -> Sequence[dict[str, Any]]:
    pair = pair_of(record, "mllm_dpo")
    return [restored(_plain(pair), pair.meta.get("mllm_dpo"), known=_KNOWN, agrees=agrees_with(pair, _read))]


def _recognises(row: Row) -> bool:
    chosen = row.get("chosen")
    first = chosen[0] if isinstance(chosen, list) and chosen else chosen
    speaks = isinstance(first, Mapping) and "from" in first and "value" in first
    return speaks and "rejected" in row and "conversations" not in row


FORMAT = Format(
    name="mllm_dpo",
    title="mllm-dpo's JSON: image, question, chosen, rejected, reference log-probabilities",
    layout="findalexli/mllm-dpo 67f651c, llava/train/train.py (encode_multimodal_preference_sample) and "
    "llava/eval/eval_logp_ultrafeedback.py",
    kinds=("pairs",),
    container="json",
    recognises=_recognises,
    read=_read,
    write=_write,
)
