"""Rows as hypothesis makes them, of the formats around LLaVA: through a record and back, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.formats import format_named
from align.formats.parts import pair_from, placed
from align.formats.store import ImageStore
from annotate.records import IMAGE_PLACEHOLDER, Example, Image, PreferencePair, Prompt

FIXTURES = Path(__file__).parent / "formats"
NAMED = ImageStore(root=None)
PATHS = ["images/lamp.png", "images/kite.png", "ältere/büro 1.jpg"]
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same_row(name: str, row: dict[str, Any]) -> None:
    """Row -> record -> row, equal as JSON text, so that 4, 4.0 and true differ."""
    form = format_named(name)
    assert form.read is not None and form.write is not None
    (record,) = form.read(row, NAMED)
    assert type(record).from_line(record.to_line()) == record  # and the record may rest in a file in between
    (again,) = form.write(record, NAMED)
    assert json.dumps(again, sort_keys=True) == json.dumps(row, sort_keys=True)


def same_record(name: str, record: Any) -> None:
    form = format_named(name)
    assert form.read is not None and form.write is not None
    (row,) = form.write(record, NAMED)
    (again,) = form.read(json.loads(json.dumps(row)), NAMED)
    if isinstance(record, PreferencePair):
        assert (again.id, again.prompt, again.chosen, again.rejected) == (
            record.id,
            record.prompt,
            record.chosen,
            record.rejected,
        )
        assert again.meta.get("reference") == record.meta.get("reference")
    else:
        assert (again.prompt, again.completion) == (record.prompt, record.completion)


# ------------------------------------------------------------------------------------------------------- what rows hold

letters = st.characters(exclude_categories=["Cs"])
words = st.text(st.one_of(letters, st.sampled_from("'\"\\{}<>\n: é水")), min_size=1, max_size=20).filter(
    lambda text: text.strip() and IMAGE_PLACEHOLDER not in text
)
numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(letters, max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.text(letters, max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
"""What a key that nobody knows may hold."""
extras = st.dictionaries(st.sampled_from(["votes", "Verbosity_gpt4v", "año", "split", ""]), values, max_size=3)
logps = st.one_of(st.integers(-50, 0), st.floats(-1e4, 0.0))
MEASURES = {"logp": logps, "avg_logp": logps, "per_token_logp": st.lists(logps, max_size=4)}


@st.composite
def question(draw: st.DrawFn, n_images: int) -> str:
    """Words with so many placeholders: before, behind or between them, with a newline or none."""
    text: str = draw(words)
    for _ in range(n_images):
        form = draw(st.sampled_from(["<image>\n{}", "{}\n<image>", "<image>{}", "{} <image> there?", "<image>\n\n{}"]))
        text = form.replace("{}", text)
    return text


@st.composite
def dialogue(draw: st.DrawFn, max_images: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Turns of LLaVA that end with a question, and the paths of their images."""
    turns: list[dict[str, Any]] = []
    paths: list[str] = []
    for i in range(draw(st.integers(1, 3))):
        n = draw(st.integers(0, max_images - len(paths)))
        paths += [draw(st.sampled_from(PATHS)) for _ in range(n)]
        turns += [{"from": "gpt", "value": draw(words)}] if i else []
        turns.append({"from": "human", "value": draw(question(n))})
    if draw(st.booleans()):
        turns.insert(0, {"from": "system", "value": draw(words)})
    return turns, paths


def optional(draw: st.DrawFn, row: dict[str, Any], **fields: st.SearchStrategy[Any]) -> None:
    """Some of the fields."""
    row.update({name: draw(value) for name, value in fields.items() if draw(st.booleans())})


def gpt(draw: st.DrawFn) -> dict[str, Any]:
    """An answer, now and then with a key of its own."""
    turn: dict[str, Any] = {"from": "gpt", "value": draw(words)}
    optional(draw, turn, score=values)
    return turn


# ------------------------------------------------------------------------------------------------------ LLaVA and POVID


@st.composite
def llava_rows(draw: st.DrawFn, *, paired: bool) -> dict[str, Any]:
    turns, paths = draw(dialogue(1 if paired else 3))
    row: dict[str, Any] = draw(extras)
    optional(
        draw, row, id=st.one_of(words, st.integers(0, 10**6)), source=words, polarity=st.sampled_from(["positive", 1])
    )
    if paired:
        row["rejected_conversations"] = [*turns, gpt(draw)]
    row["conversations"] = [*turns, gpt(draw)]
    if not paths:
        optional(draw, row, image=st.none())
    elif len(paths) == 1 and (paired or draw(st.booleans())):
        row["image"] = paths[0]
    else:
        row[draw(st.sampled_from(["image", "images"]))] = paths
    return row


@few
@given(llava_rows(paired=False))
def test_llava_rows_come_back(row: dict[str, Any]) -> None:
    same_row("llava", row)


@few
@given(llava_rows(paired=True))
def test_povid_rows_come_back(row: dict[str, Any]) -> None:
    same_row("povid", row)


# ------------------------------------------------------------------------------------------------ mllm-dpo and VL-RLHF


@st.composite
def mllm_dpo_rows(draw: st.DrawFn) -> dict[str, Any]:
    turns, paths = draw(dialogue(1))
    row: dict[str, Any] = draw(extras)
    if paths or draw(st.booleans()):
        row["image"] = paths[0] if paths else None
    if len(turns) > 1 or draw(st.booleans()):
        row |= {"chosen": [*turns, gpt(draw)], "rejected": [*turns, gpt(draw)]}
    else:
        asked = turns[0]
        forms = st.sampled_from(
            [asked, str(asked), json.dumps(asked, ensure_ascii=False), f"  {asked!r}\n", {**asked, "lang": "en"}]
        )
        row |= {"question": draw(forms), "chosen": gpt(draw), "rejected": gpt(draw)}
        if isinstance(row["question"], str) and row["question"].startswith("  "):
            row["question"] = row["question"].strip() + "  # as it was"
    for side in ("win", "rej"):
        optional(draw, row, **{f"ref_{side}_{name}": st.none() | values for name, values in MEASURES.items()})
    sums = [f"Sum_of_helpfulness_correctness_coherence_{who}" for who in ("gpt4v", "candidate")]
    optional(draw, row, **{name: st.integers(0, 12) | st.none() for name in sums})
    return row


@few
@given(mllm_dpo_rows())
def test_mllm_dpo_rows_come_back(row: dict[str, Any]) -> None:
    same_row("mllm_dpo", row)


@st.composite
def vl_rlhf_rows(draw: st.DrawFn) -> dict[str, Any]:
    shown = draw(st.booleans())
    row: dict[str, Any] = draw(extras)
    row |= {"prompt": draw(question(draw(st.integers(0, 1)) if shown else 0))}
    row |= {"chosen": draw(words), "rejected": draw(words)}
    if shown or draw(st.booleans()):
        row["image"] = draw(st.sampled_from(PATHS)) if shown else None
    return row


@few
@given(vl_rlhf_rows())
def test_vl_rlhf_rows_come_back(row: dict[str, Any]) -> None:
    same_row("vl_rlhf", row)


# ------------------------------------------------------------------------------------------------------------- RLAIF-V


@st.composite
def rlaif_v_rows(draw: st.DrawFn) -> dict[str, Any]:
    row: dict[str, Any] = draw(extras)
    data = (FIXTURES / draw(st.sampled_from(PATHS[:2]))).read_bytes()
    row["image"] = {"bytes": data, "path": draw(st.sampled_from([*PATHS, None]))}
    row |= {"question": draw(words), "chosen": draw(words), "rejected": draw(words)}
    optional(draw, row, ds_name=words, origin_dataset=words, idx=words | st.integers(0, 10**6), image_path=words)
    splits = ['{"model": "llava15",  "type": "question_answering"}', "{}", '"x"', ' {"a":1e3}\n']
    optional(draw, row, origin_split=st.sampled_from(splits) | st.none())
    if draw(st.booleans()):
        six = [draw(value) for _ in ("win", "rej") for value in MEASURES.values()]
        as_list, indent = draw(st.booleans()), draw(st.sampled_from([None, 1]))
        row["logps"] = json.dumps(six if as_list else {"logps": six}, indent=indent)
    else:
        optional(draw, row, logps=st.none())
    return row


@few
@given(rlaif_v_rows())
def test_rlaif_v_rows_come_back(row: dict[str, Any]) -> None:
    form = format_named("rlaif_v")
    assert form.read is not None and form.write is not None
    with TemporaryDirectory() as folder:
        images = ImageStore(root=None, folder=Path(folder))
        (record,) = form.read(row, images)
        assert isinstance(record, PreferencePair)
        assert PreferencePair.from_line(record.to_line()) == record
        (again,) = form.write(record, images)
    assert again["image"] == row["image"]
    rest, before = ({key: value for key, value in r.items() if key != "image"} for r in (again, row))
    assert json.dumps(rest, sort_keys=True) == json.dumps(before, sort_keys=True)


# ------------------------------------------------------------------------------------------------- records of our own


@st.composite
def prompts(draw: st.DrawFn, max_images: int, one_turn: bool = False) -> Prompt:
    turns, paths = draw(dialogue(max_images).filter(lambda made: not one_turn or len(made[0]) == 1))
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    images = [NAMED.named(path) for path in paths]
    return Prompt.of(placed([(roles[turn["from"]], turn["value"]) for turn in turns], images))  # type: ignore[misc]


@st.composite
def pairs(draw: st.DrawFn, prompt: st.SearchStrategy[Prompt], whole: bool = False) -> PreferencePair:
    reference: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        held = {name: draw(value) for name, value in MEASURES.items() if whole or draw(st.booleans())}
        if held:
            reference[side] = json.loads(json.dumps(held), parse_int=float)
    meta = {"reference": reference} if reference and draw(st.booleans()) else {}
    return pair_from(draw(prompt), draw(words), draw(words), rule="preference", meta=meta)


@few
@given(prompts(3), words, words | st.just(""))
def test_examples_come_back_from_llava(prompt: Prompt, completion: str, source: str) -> None:
    named = Prompt.of(prompt.turns, source=source, source_id=source, meta={"polarity": source})
    same_record("llava", Example.of(prompt=named, completion=completion, source="rejection"))


@few
@given(pairs(prompts(1)))
def test_pairs_come_back_from_mllm_dpo(pair: PreferencePair) -> None:
    same_record("mllm_dpo", pair)


@few
@given(prompts(1), words, words)
def test_pairs_come_back_from_povid(prompt: Prompt, chosen: str, rejected: str) -> None:
    same_record("povid", pair_from(prompt, chosen, rejected, rule="preference"))


@few
@given(prompts(1, one_turn=True), words, words)
def test_pairs_come_back_from_vl_rlhf(prompt: Prompt, chosen: str, rejected: str) -> None:
    same_record("vl_rlhf", pair_from(prompt, chosen, rejected, rule="preference"))


@few
@given(st.data())
def test_pairs_come_back_from_rlaif_v(data: st.DataObject) -> None:
    form = format_named("rlaif_v")
    assert form.read is not None and form.write is not None
    with TemporaryDirectory() as folder:
        images = ImageStore(root=FIXTURES, folder=Path(folder))
        image: Image = images.named(data.draw(st.sampled_from(PATHS[:2])))
        prompt = Prompt.of(placed([("user", "<image>\n" + data.draw(words))], [image]), source=data.draw(words))
        pair = data.draw(pairs(st.just(prompt), whole=True))
        (row,) = form.write(pair, images)
        (again,) = form.read(row, images)
    assert isinstance(again, PreferencePair)
    # the image has another path now, below the folder of embedded ones; what it shows is the same
    assert (again.id, again.prompt.id, again.prompt.source) == (pair.id, prompt.id, prompt.source)
    assert (again.chosen, again.rejected) == (pair.chosen, pair.rejected)
    assert again.meta.get("reference") == pair.meta.get("reference")
