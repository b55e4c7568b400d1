"""TRL, LLaMA-Factory and ms-swift: rows through records and back, each malformed row in words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.formats import format_named
from align.formats.containers import read_rows
from align.formats.reading import read_file
from align.formats.store import ImageStore
from align.formats.writing import write_file
from annotate.errors import RecordError, UserError
from annotate.records import Example, PreferencePair, Prompt, Turn, replace

FIXTURES = Path(__file__).parent / "formats"
NAMED = ImageStore(root=None)
FILES = ["trl.jsonl", "llama_factory.json", "llama_factory_sft.json", "ms_swift.jsonl"]
FORMS = ["trl_jsonl", "llama_factory", "ms_swift"]
few = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def form_of(file: str) -> str:
    return {"trl.jsonl": "trl_jsonl"}.get(file, Path(file).stem.removesuffix("_sft"))


def read(form: str, row: dict[str, Any]) -> PreferencePair | Example:
    reads = format_named(form).read
    assert reads is not None
    (record,) = reads(copy.deepcopy(row), NAMED)
    assert isinstance(record, PreferencePair | Example)
    return record


def write(form: str, record: PreferencePair | Example) -> dict[str, Any]:
    writes = format_named(form).write
    assert writes is not None
    (row,) = writes(record, NAMED)
    return row


# ------------------------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("file", FILES)
def test_a_file_read_and_written_is_the_same_file(tmp_path: Path, file: str) -> None:
    images = ImageStore(root=FIXTURES)
    form = format_named(form_of(file))
    rows = [placed.value for placed in read_rows(FIXTURES / file)]
    if file == "ms_swift.jsonl":  # pairs and rows of fine-tuning are two files when written
        rows = [row for row in rows if {"rejected_response", "rejected_messages"} & set(row)]
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = tmp_path / file if (tmp_path / file).exists() else FIXTURES / file
    out = tmp_path / f"out.{form.container}"
    write_file(read_file(source, form=form.name, images=images), out, form, images=images)
    assert [placed.value for placed in read_rows(out)] == rows


def test_what_a_trl_row_says() -> None:
    first, second, third, fourth = read_file(FIXTURES / "trl.jsonl", images=ImageStore(root=FIXTURES))
    assert isinstance(first, PreferencePair) and isinstance(second, PreferencePair)
    assert first.prompt.turns[0].text == "<image>\nWhat flies in the picture?"  # the newline that templates bring
    assert (first.chosen.text, first.rejected.text) == ("A red kite.", "A plane, I guess.")
    assert (first.margin, first.rule, first.meta) == (None, "trl", {})
    assert [(t.role, t.text) for t in second.prompt.turns] == [
        ("system", "Antworte knapp."),
        ("user", "<image>\nWas ist das?"),
        ("assistant", "Ein Drachen."),
        ("user", "Und daneben <image> – das hier?"),
    ]
    assert [image.path for image in second.prompt.images] == ["images/kite.png", "images/lamp.png"]
    assert second.meta == {"trl": {"score_chosen": 8.5}}
    assert isinstance(third, PreferencePair) and third.prompt.turns[0].text.startswith("<image>\n<image>\nWhich")
    assert isinstance(fourth, PreferencePair) and fourth.prompt.images == ()


def test_trl_parquet_holds_what_the_json_lines_hold(tmp_path: Path) -> None:
    """Written by `datasets` itself: the images in the rows, and every part with a `text`, were it null."""
    images = ImageStore(root=FIXTURES, folder=tmp_path)
    lines = list(read_file(FIXTURES / "trl.jsonl", images=images))
    parquet = list(read_file(FIXTURES / "trl.parquet", images=images))
    for one, other in zip(lines, parquet, strict=True):
        assert isinstance(one, PreferencePair) and isinstance(other, PreferencePair)
        assert (one.id, one.chosen, one.rejected) == (other.id, other.chosen, other.rejected)
        assert other.meta == {}
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png", ".png"]


def test_trl_parquet_keeps_unknown_keys_in_one_column(tmp_path: Path) -> None:
    images = ImageStore(root=FIXTURES, folder=tmp_path / "images")
    pairs = list(read_file(FIXTURES / "trl.jsonl", images=images))
    write_file(pairs, tmp_path / "out.parquet", format_named("trl"), images=images)
    rows = [placed.value for placed in read_rows(tmp_path / "out.parquet")]
    assert [row["mmalign_meta"] for row in rows] == [None, '{"score_chosen": 8.5}', None, None]
    kite, lamp = ((FIXTURES / "images" / name).read_bytes() for name in ("kite.png", "lamp.png"))
    assert [[image["bytes"] for image in row["images"]] for row in rows] == [[kite], [kite, lamp], [kite, lamp], []]
    again = list(read_file(tmp_path / "out.parquet", images=images))
    assert [record.meta for record in again] == [record.meta for record in pairs]


def test_llama_factory_knows_the_file_by_its_name(tmp_path: Path) -> None:
    images = ImageStore(root=FIXTURES)
    form = format_named("llama_factory")
    info = tmp_path / "dataset_info.json"
    info.write_text('{"identity": {"file_name": "identity.json"}}')
    write_file(read_file(FIXTURES / "llama_factory.json", images=images), tmp_path / "dpo.json", form, images=images)
    sft = read_file(FIXTURES / "llama_factory_sft.json", images=images)
    write_file(sft, tmp_path / "sft.json", form, images=images)
    said = {"messages": "conversations", "images": "images"}
    assert json.loads(info.read_text()) == {
        "identity": {"file_name": "identity.json"},
        "dpo": {
            "file_name": "dpo.json",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {**said, "chosen": "chosen", "rejected": "rejected"},
        },
        "sft": {"file_name": "sft.json", "formatting": "sharegpt", "columns": said},
    }


def test_a_damaged_dataset_info_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{oops")
    pairs = read_file(FIXTURES / "llama_factory.json", images=NAMED)
    with pytest.raises(UserError, match=r"dataset_info.json: not JSON .*; mend it, or write to another folder"):
        write_file(pairs, tmp_path / "dpo.json", format_named("llama_factory"), images=NAMED)
    assert (tmp_path / "dataset_info.json").read_text() == "{oops"


def test_ms_swift_takes_loss_off_earlier_answers() -> None:
    turns = tuple(
        Turn(role=role, text=text) for role, text in (("user", "Hi"), ("assistant", "Hello."), ("user", "A?"))
    )
    row = write("ms_swift", Example.of(prompt=Prompt.of(turns), completion="B.", source="rejection"))
    assert row == {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "loss": False},
            {"role": "user", "content": "A?"},
            {"role": "assistant", "content": "B."},
        ]
    }


# ------------------------------------------------------------------------------------------------- other forms of rows

USER = {"role": "user", "content": "What is it?"}
CAT, DOG = ({"role": "assistant", "content": text} for text in ("A cat.", "A dog."))
ALSO: list[tuple[str, dict[str, Any], str]] = [
    # plain text instead of parts: TRL itself shows the images first
    ("trl_jsonl", {"prompt": [USER], "chosen": [CAT], "rejected": [DOG], "images": ["a.png"]}, "<image>\nWhat is it?"),
    # the prompt is what both sides begin with
    ("trl_jsonl", {"chosen": [USER, CAT], "rejected": [USER, DOG], "images": []}, "What is it?"),
    # TRL's standard format
    ("trl_jsonl", {"prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog.", "images": []}, "What is it?"),
    # an empty text in front: to the letter
    (
        "trl_jsonl",
        {
            "prompt": [{"role": "user", "content": [
                {"type": "text", "text": ""}, {"type": "image"}, {"type": "text", "text": "What is it?"}]}],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}],
            "images": ["a.png"],
        },
        "<image>What is it?",
    ),
    # images without a placeholder stand first
    ("ms_swift", {"messages": [USER, CAT], "rejected_response": "A dog.", "images": ["a.png"]}, "<image>What is it?"),
    ("ms_swift", {"messages": [USER, CAT], "rejected_response": [DOG], "image": "a.png"}, "<image>What is it?"),
    ("ms_swift", {"messages": [USER, CAT], "rejected_messages": [USER, DOG]}, "What is it?"),
    ("ms_swift", {"messages": [USER, CAT], "rejected_response": "A dog.", "margin": 2}, "What is it?"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "row", "asked"), ALSO)
def test_other_forms_are_read_and_written_back(form: str, row: dict[str, Any], asked: str) -> None:
    record = read(form, row)
    assert isinstance(record, PreferencePair)
    assert (record.prompt.turns[-1].text, record.chosen.text, record.rejected.text) == (asked, "A cat.", "A dog.")
    assert write(form, record) == row
    assert read(form, write(form, replace(record, meta={}))).id == record.id  # the usual form says the same


@pytest.mark.parametrize(("form", "row", "asked"), ALSO)
def test_a_changed_pair_is_not_undone_by_its_past(form: str, row: dict[str, Any], asked: str) -> None:
    """Chosen and rejected exchanged, as a test of noise does: the old form of the row would still say the old."""
    record = read(form, row)
    assert isinstance(record, PreferencePair)
    flipped = replace(record, chosen=record.rejected, rejected=record.chosen, margin=None)
    again = read(form, write(form, flipped))
    assert isinstance(again, PreferencePair)
    assert (again.chosen.text, again.rejected.text, again.margin) == ("A dog.", "A cat.", None)


def test_images_in_rows_are_kept_as_files(tmp_path: Path) -> None:
    import base64

    kite = (FIXTURES / "images/kite.png").read_bytes()
    uri = f"data:image/png;base64,{base64.b64encode(kite).decode()}"
    row = {"messages": [{"role": "user", "content": "<image>What?"}, CAT], "rejected_response": "No.", "images": [uri]}
    store = ImageStore(root=None, folder=tmp_path)
    reads = format_named("ms_swift").read
    assert reads is not None
    (record,) = reads(row, store)
    assert isinstance(record, PreferencePair)
    assert (tmp_path / record.prompt.images[0].path).read_bytes() == kite


# ------------------------------------------------------------------------------------------------------ malformed rows

LF: dict[str, Any] = {
    "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}],
    "chosen": {"from": "gpt", "value": "A cat."},
    "rejected": {"from": "gpt", "value": "A dog."},
    "images": ["a.png"],
}
TALK = LF["conversations"]
SW: dict[str, Any] = {
    "messages": [{"role": "user", "content": "<image>What is it?"}, CAT],
    "rejected_response": "A dog.",
    "images": ["a.png"],
}
TR: dict[str, Any] = {
    "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}],
    "chosen": [CAT],
    "rejected": [DOG],
    "images": ["a.png"],
}
MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("llama_factory", {**LF, "conversations": []}, "conversations: expected a list with at least one message"),
    ("llama_factory", {**LF, "conversations": None}, "conversations: expected a list .* got nothing"),
    ("llama_factory", {**LF, "conversations": ["Hi"]}, r"conversations\[0\]: expected an object with 'from' and"),
    (
        "llama_factory",
        {**LF, "conversations": [*TALK, {"from": "function_call", "value": "{}"}]},
        r"conversations\[1\].from: 'function_call' is the message of a tool call.*; take such rows out",
    ),
    ("llama_factory", {**LF, "conversations": [*TALK, {"from": "observation", "value": "{}"}]}, "'observation' is the"),
    ("llama_factory", {**LF, "tools": "[{}]"}, "tools: records hold text and images only; take such rows out"),
    ("llama_factory", {**LF, "videos": ["a.mp4"]}, "videos: records hold text and images only"),
    (
        "llama_factory",
        {**LF, "conversations": [{"from": "user", "value": "Hi"}]},
        r"conversations\[0\].from: 'user' is none of human, gpt, system",
    ),
    (
        "llama_factory",
        {**LF, "conversations": [{"from": "human"}]},
        r"conversations\[0\].value: expected text, got not",
    ),
    ("llama_factory", {**LF, "conversations": [*TALK, {"from": "gpt", "value": "x"}]}, "turns must alternate"),
    ("llama_factory", {**LF, "images": []}, r"conversations: 1 <image> placeholder\(s\) but 0 image\(s\): write one"),
    ("llama_factory", {**LF, "images": ["a.png", "b.png"]}, r"1 <image> placeholder\(s\) but 2 image\(s\)"),
    ("llama_factory", {**LF, "images": [7]}, r"images\[0\]: expected the path of an image, or its bytes, got int"),
    (
        "llama_factory",
        {**LF, "images": ["http://a/b.png"]},
        r"images\[0\]: 'http://a/b.png' is an address; download it",
    ),
    ("llama_factory", {**LF, "chosen": {"from": "gpt", "value": " "}}, "chosen.value: empty answer; write one"),
    ("llama_factory", {**LF, "chosen": {"from": "gpt", "value": "It is <image>"}}, "chosen.value: the answer contains"),
    (
        "llama_factory",
        {**LF, "chosen": {"from": "human", "value": "x"}},
        "chosen.from: 'human', but an answer is the as",
    ),
    ("llama_factory", {**LF, "rejected": "A dog."}, "rejected: expected an object with 'from' and 'value', got str"),
    ("llama_factory", {k: LF[k] for k in LF if k != "rejected"}, "rejected: expected an object .* got nothing"),
    ("llama_factory", {"conversations": TALK, "images": ["a.png"]}, "conversations: ends with the user; the last mess"),
    ("ms_swift", {**SW, "messages": [*SW["messages"][:1], {"role": "tool_call", "content": "{}"}]}, "a tool call"),
    ("ms_swift", {**SW, "messages": SW["messages"][:1]}, "messages: ends with the user; the last message must be"),
    ("ms_swift", {**SW, "messages": [SW["messages"][0], {"role": "assistant", "content": ""}]}, "empty answer"),
    ("ms_swift", {**SW, "rejected_response": ""}, "rejected_response: empty answer; write one, or leave the row out"),
    ("ms_swift", {**SW, "rejected_response": 3}, "rejected_response: expected a list .* got int"),
    ("ms_swift", {**SW, "rejected_response": [DOG, DOG]}, "rejected_response: 2 messages; a pair holds one answer"),
    ("ms_swift", {**SW, "rejected_messages": [USER, DOG]}, "rejected_messages: given beside rejected_response"),
    (
        "ms_swift",
        {"messages": [USER, CAT], "rejected_messages": [{"role": "user", "content": "Other?"}, DOG]},
        "rejected_messages: must say what messages says, up to the answer",
    ),
    ("ms_swift", {**SW, "rejected_images": ["b.png"]}, "rejected_images: other images than the chosen side's"),
    (
        "ms_swift",
        {"messages": SW["messages"], "images": ["a.png"], "rejected_images": ["a.png"]},
        "rejected_images: without rejected_response both answers are the same",
    ),
    ("ms_swift", {**SW, "image": "a.png"}, "image: given beside images; keep one"),
    ("ms_swift", {**SW, "images": ["data:image/png;base64,@@"]}, r"images\[0\]: a data: URI that is not base64"),
    ("ms_swift", {**SW, "images": []}, r"messages: 1 <image> placeholder\(s\) but 0 image\(s\)"),
    ("ms_swift", {**SW, "margin": "big"}, "margin: expected a number, got str"),
    ("ms_swift", {**SW, "objects": {"ref": ["cat"]}}, "objects: records hold text and images only"),
    ("trl_jsonl", {**TR, "prompt": []}, "prompt: expected a list with at least one message"),
    (
        "trl_jsonl",
        {**TR, "prompt": [{"role": "tool", "content": "x"}]},
        r"prompt\[0\].role: 'tool' is the message of a",
    ),
    (
        "trl_jsonl",
        {**TR, "prompt": [{"role": "user", "content": 5}]},
        r"prompt\[0\].content: expected a list .* got int",
    ),
    (
        "trl_jsonl",
        {**TR, "prompt": [{"role": "user", "content": [{"type": "video"}]}]},
        r"prompt\[0\].content\[0\].type: 'video' is neither 'text' nor 'image'",
    ),
    (
        "trl_jsonl",
        {**TR, "prompt": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]},
        r"prompt\[0\].content\[0\].image: an image inside a part; put it into the column images",
    ),
    (
        "trl_jsonl",
        {**TR, "prompt": [{"role": "user", "content": [{"type": "text", "text": "An <image> here"}]}]},
        r"prompt\[0\].content\[0\].text: <image> as text; TRL marks an image by a part",
    ),
    ("trl_jsonl", {**TR, "images": []}, r"prompt: 1 <image> placeholder\(s\) but 0 image\(s\)"),
    ("trl_jsonl", {**TR, "image": "a.png"}, "image: given beside images; keep one"),
    ("trl_jsonl", {**TR, "chosen": [{"role": "assistant", "content": " "}]}, r"chosen\[0\]: empty answer"),
    ("trl_jsonl", {**TR, "chosen": [USER]}, "chosen: ends with the user; the last message must be the assistant's"),
    ("trl_jsonl", {**TR, "chosen": [CAT, USER, CAT]}, "chosen: 3 messages; a record holds one answer"),
    ("trl_jsonl", {"chosen": [USER, CAT], "rejected": [{**USER, "content": "?"}, DOG]}, "must begin as chosen does"),
    ("trl_jsonl", {"prompt": TR["prompt"], "images": ["a.png"]}, "completion: expected a list .* got nothing"),
    ("trl_jsonl", {**TR, "mmalign_meta": "{"}, "mmalign_meta: not the JSON that mmalign wrote there"),
]


@pytest.mark.parametrize(("form", "row", "says"), MALFORMED)
def test_a_malformed_row_names_field_and_remedy(form: str, row: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=says):
        read(form, row)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("text", "says"), [("It is <image>.", "the answer contains <image>"), (" \n", "empty answer")])
def test_answers_that_no_trainer_can_use_are_not_written(form: str, text: str, says: str) -> None:
    pair = read("llama_factory", LF)
    assert isinstance(pair, PreferencePair)
    for side in ("chosen", "rejected"):
        with pytest.raises(RecordError, match=f"{side}: (the )?.*{says}"):
            write(form, replace(pair, **{side: replace(getattr(pair, side), text=text)}))


# ------------------------------------------------------------------------------------------------ as hypothesis has it

letters = st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("'\"\\{}<>\n: é水"))
words = st.text(letters, min_size=1, max_size=16).filter(lambda t: bool(t.strip()) and "<image>" not in t)
paths = st.sampled_from(["images/lamp.png", "kite.png", "ältere/büro 1.jpg"])
values = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), words, st.lists(st.integers(0, 3), max_size=2))
extras = st.dictionaries(st.sampled_from(["votes", "año", "split", "channel"]), values, max_size=2)


@st.composite
def asked(draw: st.DrawFn, most: int) -> tuple[str, list[str]]:
    """A question with placeholders anywhere, and as many paths."""
    text: str = draw(words)
    shown = draw(st.lists(paths, max_size=most))
    for _ in shown:
        form = draw(st.sampled_from(["<image>\n{}", "{}\n<image>", "<image>{}", "{} <image> there", "<image>\n\n{}"]))
        text = form.replace("{}", text)
    return text, shown


@st.composite
def records(draw: st.DrawFn) -> PreferencePair | Example:
    """Any prompt of up to three questions, with a system turn or none, and its one or two answers."""
    from align.formats.parts import pair_from, prompt_from

    talk: list[Any] = [("system", draw(words))] if draw(st.booleans()) else []
    shown: list[str] = []
    for i in range(draw(st.integers(1, 3))):
        text, more = draw(asked(2))
        talk += [("assistant", draw(words))] if i else []
        talk.append(("user", text))
        shown += more
    prompt = prompt_from(talk, [NAMED.named(path) for path in shown], where="prompt")
    if draw(st.booleans()):
        return Example.of(prompt=prompt, completion=draw(words), source="rejection")
    return pair_from(prompt, draw(words), draw(words), rule="preference")


@few
@given(record=records(), more=extras, form=st.sampled_from(FORMS))
def test_record_to_row_to_record_to_row(record: PreferencePair | Example, more: dict[str, Any], form: str) -> None:
    row = write(form, record)
    again = read(form, json.loads(json.dumps(row)))
    assert type(again) is type(record) and again.prompt == record.prompt and again.meta == {}
    if isinstance(record, PreferencePair) and isinstance(again, PreferencePair):
        assert (again.id, again.chosen, again.rejected) == (record.id, record.chosen, record.rejected)
    elif isinstance(record, Example) and isinstance(again, Example):
        assert again.completion == record.completion
    with_more = {**row, **more}
    kept = read(form, with_more)
    assert json.dumps(write(form, kept), sort_keys=True) == json.dumps(with_more, sort_keys=True)
    assert type(kept).from_line(kept.to_line()) == kept
