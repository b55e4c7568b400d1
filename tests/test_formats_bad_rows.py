"""Malformed rows of the formats around LLaVA, one change each, and the words that name field and remedy."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from format_rig import HUMAN, KITE, LAMP, LLAVA, MLLM_DPO, POVID, RLAIF_V, TALK, VL_RLHF, gpt, human, read, store

from align.formats.reading import read_file
from annotate.errors import RecordError, UserError

GONE = object()


def changed(row: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A copy of the row with fields replaced, or taken out where they are GONE."""
    new = {**copy.deepcopy(row), **change}
    return {key: value for key, value in new.items() if value is not GONE}


BAD_LLAVA: list[tuple[dict[str, Any], str]] = [
    ({"conversations": GONE}, 'a LLaVA row is an object with "conversations"'),
    ({"conversations": []}, '"conversations" must be a list with at least one turn'),
    ({"conversations": "What?"}, '"conversations" must be a list with at least one turn'),
    ({"conversations": [human("<image>\nWhat?"), gpt("  ")]}, "conversations[1].value: empty answer; write one"),
    ({"conversations": [human("<image>\nWhat?"), gpt(None)]}, "conversations[1].value: expected text, got NoneType"),
    ({"conversations": [human("<image>"), gpt("A.")]}, "a user turn has no text; write the question"),
    ({"conversations": [human("<image>\nWhat?"), human("So?"), gpt("A.")]}, "turns must alternate user, assistant"),
    ({"conversations": [gpt("A lamp.")]}, "placeholder"),
    (
        {"conversations": [{"from": "user", "value": "x"}]},
        "conversations[0].from: 'user' is none of human, gpt, system",
    ),
    ({"conversations": [human("What?"), gpt("A lamp.")]}, "0 <image> placeholder(s) but 1 image(s): write one <image>"),
    ({"image": GONE}, "1 <image> placeholder(s) but 0 image(s)"),
    ({"image": 5}, "image: expected a path or a list of paths"),
    ({"image": "images/none.png"}, "image 'images/none.png': no such file"),
    ({"images": [LAMP]}, 'both "image" and "images" are given; keep one'),
    ({"id": 1.5}, "id: expected text or a number, got float"),
    ({"conversations": [human("<image>\nWhat?"), gpt("An <image>.")]}, "the answer contains <image>"),
    ({"conversations": [human("<image>\nWhat?"), gpt("\ud83e")]}, "half of a surrogate pair"),
    ({"conversations": [human("<image>\nWhat\ud83e?"), gpt("A.")]}, "half of a surrogate pair"),
]
BAD_POVID: list[tuple[dict[str, Any], str]] = [
    ({"conversations": GONE}, "conversations: missing"),
    ({"rejected_conversations": GONE}, "rejected_conversations: missing"),
    ({"rejected_conversations": {}}, '"rejected_conversations" must be a list'),
    ({"rejected_conversations": [human("<image>\nWho?"), gpt("A.")]}, "rejected_conversations[0]: differs from"),
    ({"rejected_conversations": [human("<image>\nWhat?")]}, "rejected_conversations: ends with a question"),
    ({"conversations": [human("<image>\nWhat?")]}, "conversations: ends with a question; a pair needs the answer"),
    ({"rejected_conversations": [human("<image>\nWhat?"), gpt("")]}, "rejected: empty answer"),
    ({"conversations": [human("<image>\nWhat?"), gpt("\n")]}, "chosen: empty answer"),
    ({"rejected_conversations": [gpt("A dog.")]}, "rejected_conversations[0]: differs from conversations[0]"),
    ({"image": [LAMP, KITE]}, "image: expected one path (text), got list"),
    ({"image": GONE}, "1 <image> placeholder(s) but 0 image(s)"),
]
BAD_VL_RLHF: list[tuple[dict[str, Any], str]] = [
    ({"prompt": GONE}, "prompt: missing; every row needs it"),
    ({"chosen": GONE}, "chosen: missing; every row needs it"),
    ({"rejected": GONE}, "rejected: missing; every row needs it"),
    ({"prompt": [human("What?")]}, "prompt: expected text, got list"),
    ({"chosen": None}, "chosen: expected text, got NoneType"),
    ({"rejected": 8}, "rejected: expected text, got int"),
    ({"chosen": " \n"}, "chosen: empty answer; write one, or leave the row out"),
    ({"rejected": "An <image>."}, "rejected: the answer contains <image>"),
    ({"prompt": " "}, "prompt: a user turn has no text; write the question"),
    ({"prompt": "<image> or <image>?"}, "prompt: 2 <image> placeholder(s) but 1 image(s)"),
    ({"prompt": "<image>\nWhat?", "image": GONE}, "prompt: 1 <image> placeholder(s) but 0 image(s)"),
    ({"image": [LAMP]}, "image: expected one path (text), got list"),
    ({"image": ""}, "image: expected one path (text)"),
    ({"image": "/etc/passwd"}, "image '/etc/passwd': is absolute"),
    ({"_absent": []}, "_absent: mmalign uses this name itself"),
]
BAD_MLLM_DPO: list[tuple[dict[str, Any], str]] = [
    ({"question": GONE}, "question: missing; every row needs it, unless chosen and rejected are lists"),
    ({"chosen": GONE}, "chosen: missing"),
    ({"rejected": GONE}, "rejected: missing"),
    ({"question": "What?"}, "question: text that is no Python dictionary"),
    ({"question": "{'from': 'human', 'value':"}, "question: text that is no Python dictionary"),
    ({"question": "['human', 'What?']"}, "question: text that is no Python dictionary"),
    ({"question": "{'from': 'human', 'value': " + "'a' " * 30_000 + "}"}, "more than 100000; make it JSON"),
    ({"question": "(" * 5_000}, "question: text that is no Python dictionary"),
    ({"question": "__import__('os').system('true')"}, "question: text that is no Python dictionary"),
    ({"question": gpt("<image>\nWhat?")}, 'question.from: expected "human"'),
    ({"question": human(7)}, "question.value: expected text, got int"),
    ({"question": human("What?")}, "question: 0 <image> placeholder(s) but 1 image(s)"),
    ({"question": human("<image>\n")}, "question: a user turn has no text"),
    ({"chosen": "A lamp."}, "chosen.from: None is none of human, gpt, system"),
    ({"chosen": human("A lamp.")}, 'chosen: expected an answer, {"from": "gpt", "value": "..."}'),
    ({"rejected": gpt("")}, "rejected: empty answer"),
    ({"rejected": gpt("<image>")}, "rejected: the answer contains <image>"),
    ({"image": 2.5}, "image: expected one path (text), got float"),
    ({"ref_win_logp": "-1.5"}, "ref_win_logp: expected a finite number, got '-1.5'"),
    ({"ref_rej_avg_logp": float("nan")}, "ref_rej_avg_logp: expected a finite number, got nan"),
    ({"ref_win_per_token_logp": -1.0}, "ref_win_per_token_logp: expected a list of numbers, got float"),
    ({"ref_win_per_token_logp": [-1.0, True]}, "ref_win_per_token_logp[1]: expected a finite number, got True"),
    ({"chosen": TALK, "rejected": TALK[:2]}, "rejected: its turns before the last answer are not those of chosen"),
    ({"chosen": TALK, "rejected": "A dog."}, '"rejected" must be a list with at least one turn'),
    ({"chosen": TALK[:3], "rejected": TALK[:3]}, "chosen: expected an answer"),
    ({"chosen": [*TALK[:2], gpt("So."), gpt("A.")], "rejected": [*TALK[:2], gpt("So."), gpt("B.")]}, "must alternate"),
]
BAD_RLAIF_V: list[tuple[dict[str, Any], str]] = [
    ({"question": GONE}, "question: missing; every row needs it"),
    ({"chosen": GONE}, "chosen: missing; every row needs it"),
    ({"rejected": GONE}, "rejected: missing; every row needs it"),
    ({"image": GONE}, 'image: expected {"bytes": ..., "path": ...} with the image itself'),
    ({"image": {"bytes": None, "path": "lamp.png"}}, 'image: expected {"bytes": ..., "path": ...}'),
    ({"image": {"bytes": b"GIF no", "path": "lamp.png"}}, "embedded image 'lamp.png'"),
    ({"question": None}, "question: expected text, got NoneType"),
    ({"question": "<image>\nWhat?"}, "question: contains <image>; RLAIF-V puts the image before the question"),
    ({"question": "  "}, "question: a user turn has no text"),
    ({"chosen": ""}, "chosen: empty answer"),
    ({"rejected": "see <image>"}, "rejected: the answer contains <image>"),
    ({"origin_dataset": 4}, "origin_dataset: expected text, got int"),
    ({"origin_split": "llava15"}, "origin_split: 'llava15' is not JSON"),
    ({"logps": "-1.0, -0.5"}, "logps: '-1.0, -0.5' is not JSON"),
    ({"logps": [-1.0]}, "logps: expected text, got list"),
    ({"logps": "[-1.0, -0.5, [-0.5]]"}, "logps: expected six values"),
    ({"logps": '{"logps": [-1.0, -0.5, [-0.5], -2.0, null, [-1.0]]}'}, "logps: one of the six is null"),
    ({"logps": "[-1.0, -0.5, [-0.5], -2.0, NaN, [-1.0]]"}, "logps[4]: expected a finite number, got nan"),
    ({"logps": "[-1.0, [-0.5], -0.5, -2.0, -1.0, [-1.0]]"}, "logps[1]: expected a finite number, got [-0.5]"),
    ({"votes": {"of": [b"\x01"]}}, "votes.of[0]: a record cannot keep bytes; drop the field"),
    ({"weight": float("inf")}, "weight: inf is no number that a record can keep"),
]
BAD_HUMAN: list[tuple[dict[str, Any], str]] = [
    ({"conversations": GONE}, "conversations: missing; every row needs it"),
    ({"output_1": GONE}, 'output_1: expected {"from": "...", "value": "an answer"}, got None'),
    ({"output_2": "A dog."}, "output_2: expected"),
    ({"output_2": {"from": "llava", "value": ""}}, "output_2.value: empty answer"),
    ({"preference": GONE}, "preference: None is neither 1 (output_1) nor 2 (output_2)"),
    ({"preference": 0}, "preference: 0 is neither 1 (output_1) nor 2 (output_2)"),
    ({"preference": True}, "preference: True is neither"),
    ({"preference": "1"}, "preference: '1' is neither"),
    ({"preference": 1.0}, "preference: 1.0 is neither"),
    ({"conversations": [[human("What?")], []]}, "conversations[0].from: None is none of"),
    ({"image": GONE}, "1 <image> placeholder(s) but 0 image(s)"),
]


def told(name: str, good: dict[str, Any], change: dict[str, Any], words: str) -> None:
    read(name, good)
    with pytest.raises(RecordError) as error:
        read(name, changed(good, change))
    assert words in str(error.value)


@pytest.mark.parametrize(("change", "words"), BAD_LLAVA)
def test_a_bad_llava_row_is_told(change: dict[str, Any], words: str) -> None:
    told("llava", LLAVA, change, words)


@pytest.mark.parametrize(("change", "words"), BAD_POVID)
def test_a_bad_povid_row_is_told(change: dict[str, Any], words: str) -> None:
    told("povid", POVID, change, words)


@pytest.mark.parametrize(("change", "words"), BAD_VL_RLHF)
def test_a_bad_vl_rlhf_row_is_told(change: dict[str, Any], words: str) -> None:
    told("vl_rlhf", VL_RLHF, change, words)


@pytest.mark.parametrize(("change", "words"), BAD_MLLM_DPO)
def test_a_bad_mllm_dpo_row_is_told(change: dict[str, Any], words: str) -> None:
    told("mllm_dpo", MLLM_DPO, change, words)


@pytest.mark.parametrize(("change", "words"), BAD_RLAIF_V)
def test_a_bad_rlaif_v_row_is_told(change: dict[str, Any], words: str) -> None:
    told("rlaif_v", RLAIF_V, change, words)


@pytest.mark.parametrize(("change", "words"), BAD_HUMAN)
def test_a_bad_row_of_human_preferences_is_told(change: dict[str, Any], words: str) -> None:
    told("llava_human_preference", HUMAN, change, words)


def test_a_bad_row_is_told_with_its_place_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps([VL_RLHF, changed(VL_RLHF, {"rejected": ""})]))
    with pytest.raises(UserError) as error:
        list(read_file(file, images=store()))
    assert str(error.value) == f"{file} row 2: rejected: empty answer; write one, or leave the row out"
