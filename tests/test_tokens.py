"""The account of a training's tokens: the arithmetic by hand, the counts against a real tokenizer and processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from tiny_llava import ask_about, save_image, save_tiny_llava, save_tiny_llava_next
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from align.models.encode import Encoder
from align.models.lengths import Asked, Length, Lengths
from align.settings import Lora, Parts, Train
from align.tokens import Flops, Model, Stack, Tokens, table, training_flops
from align.train.counted import asked_rows, count, model_of
from align.train.modules import tensors
from align.train.preflight import look_ahead
from annotate import pixels
from annotate.errors import UserError
from annotate.jsonl import write_records
from annotate.records import Example, Prompt, Turn

# ------------------------------------------------------------------------------------------------------- arithmetic

# Reference data: MLAN, Table 2, the paper's own token counts of 80,000 rows. Its rows have no labels in the text; by
# the ratios of section 1 they are language alone, 12.5% images (Llama 2), 50% (Vicuna), Cambrian's 75%, LLaVA's 94%.
PAPER = {
    "MLAN": 10_110_681,
    "MLAN_v 12.5%": 14_939_955,
    "MLAN_v 50%": 29_443_833,
    "Cambrian-1": 39_093_356,
    "LLaVA": 46_360_439,
}


def published() -> dict[str, Tokens]:
    return {name: Tokens(rows=80_000, lm=lm) for name, lm in PAPER.items()}


@pytest.mark.parametrize(
    ("more", "less", "times"),
    [
        ("LLaVA", "MLAN", 4.6),  # section 1: "4.6x and 3.9x"
        ("Cambrian-1", "MLAN", 3.9),
        ("LLaVA", "MLAN_v 12.5%", 3.1),  # "3.1x and 2.6x"
        ("Cambrian-1", "MLAN_v 12.5%", 2.6),
    ],
)
def test_the_papers_ratios_are_those_of_its_counts(more: str, less: str, times: float) -> None:
    assert round(published()[more].times(published()[less]), 1) == times


def test_the_papers_savings_and_increases_are_those_of_its_counts_but_for_one() -> None:
    its = published()
    assert [round(its["MLAN"].fewer(its[name])) for name in ("LLaVA", "Cambrian-1")] == [78, 74]
    increases = {name: round(account.increase(its["MLAN"]), 2) for name, account in its.items()}
    assert increases == {
        "MLAN": 0.0,
        "MLAN_v 12.5%": 47.76,
        "MLAN_v 50%": 191.22,  # printed as 191.30, which 29,443,833 is not
        "Cambrian-1": 286.65,
        "LLaVA": 358.53,
    }


def test_the_table_has_the_papers_layout_and_what_stands_behind_it() -> None:
    mlan = Tokens(rows=4, lm=1_000, trained=100)
    mixed = Tokens(rows=4, with_images=2, images=2, views=2, lm=2_500, image=1_152, trained=90)
    flops = {"mixed": Flops(language=10**12, attention=2 * 10**11, projector=10**10, tower=0)}
    told = table({"mlan": mlan, "mixed": mixed}, flops=flops, seconds={"mixed": 5.0})
    assert told == (
        "       LM tokens  increase  times  of images  trained  rows  with images     FLOPs  seconds  tokens/s\n"
        "mlan       1,000            1.00x          0      100     4            0         -        -         -\n"
        "mixed      2,500  +150.00%  2.50x      1,152       90     4            2  1.21e+12      5.0       500"
    )


def test_accounts_add_up_and_padding_is_known_only_where_it_is_known_of_both() -> None:
    a = Tokens(rows=1, lm=10, image=4, trained=2, squared=100, padded=12)
    b = Tokens(rows=2, lm=20, image=8, trained=3, squared=200, padded=25)
    assert a + b == Tokens(rows=3, lm=30, image=12, trained=5, squared=300, padded=37)
    assert (a + Tokens(rows=2, lm=20)).padded is None
    assert a.prompt == 4  # neither image nor answer


def test_operations_by_hand() -> None:
    """One row of 10 tokens, 4 of them an image of 4 patches and a class token; every factor can be seen."""
    row = Tokens(rows=1, with_images=1, images=1, views=1, lm=10, image=4, trained=2, squared=100)
    parts = {
        "language": Stack(weights=1000, layers=2, width=8),
        "projector": 50,
        "tower": Stack(weights=300, layers=1, width=6),
        "patches": 5,
        "projected": 4,
    }

    def flops(language: str, projector: str, tower: str, adapter: int = 0) -> Flops:
        learns: Any = {"language": language, "projector": projector, "tower": tower}
        return training_flops(row, Model(**parts, adapter=adapter, learns=learns))  # type: ignore[arg-type]

    attention = 10 * 10 * 4 * 2 * 8 * 3  # pairs x 4 x layers x width, forward and twice that backward
    seen = 5 * 300 * 2 + 4 * 1 * 6 * 25  # the tower, forward only
    full = flops("full", "full", "frozen")
    assert full == Flops(language=10 * 1000 * 6, attention=attention, projector=4 * 50 * 6, tower=seen)
    assert full.total == 60_000 + 19_200 + 1_200 + 3_600
    # the projector alone learns: the language model carries gradients to it
    assert flops("frozen", "full", "frozen") == Flops(
        language=10 * 1000 * 4, attention=attention, projector=4 * 50 * 6, tower=seen
    )
    # an adapter of 20 weights beside frozen ones, nothing before it learns
    assert flops("lora", "frozen", "frozen", adapter=20) == Flops(
        language=10 * 1000 * 4 + 10 * 20 * 6, attention=attention, projector=4 * 50 * 2, tower=seen
    )
    assert flops("full", "full", "full").tower == 5 * 300 * 6 + 4 * 6 * 25 * 3


# ----------------------------------------------------------------------------------------------------------- counting


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def llava_next(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava_next(tmp_path_factory.mktemp("llava_next"))


def mixed_rows(root: Path) -> list[Asked]:
    """Text and images, one and several, of many sizes, in dialogues, with letters of several bytes, and sideways."""
    rows = [Asked([Turn(role="user", text=t)], [], a) for t, a in (("Name three fruits.", "Apple, pear."), ("ß?", "é"))]
    for i, size in enumerate([(48, 48), (96, 48), (60, 33), (31, 97), (200, 40), (96, 96), (60, 33)]):
        image = save_image(root, f"m{i}.png", seed=i, size=size)
        turns = ask_about(image, text=f"Which digit is number {i}?").turns
        rows.append(Asked(turns, [root / image.path], "The blue digit is 4."))
    first, second = (save_image(root, f"s{i}.png", seed=20 + i, size=(40 + 50 * i, 60)) for i in (0, 1))
    dialogue = [
        Turn(role="user", text="<image>\nand <image>\nWhich is red?", images=(first, second)),
        Turn(role="assistant", text="The 7 is red."),
        Turn(role="user", text="Is there another?"),
        Turn(role="assistant", text="Yes, two."),
        Turn(role="user", text="<image>\nAnd here?", images=(first,)),
    ]
    rows.append(Asked(dialogue, [root / i.path for i in (first, second, first)], "No."))
    sideways = PILImage.open(root / "m4.png")
    exif = sideways.getexif()
    exif[0x0112] = 6  # a camera that was held upright
    for name in ("turned.jpg", "turned.png"):
        sideways.save(root / name, exif=exif)
        rows.append(Asked(ask_about(save_image(root, "x.png", seed=1)).turns, [root / name], "Tall."))
    return rows


def as_encoded(row: Asked, encoder: Encoder) -> Length:
    """What training itself feeds: every image decoded, every token there."""
    prompt = encoder.prompt(row.turns, row.images)
    assert encoder.image_id is not None
    pieces = prompt.images["pixel_values"].shape if row.images else (0, 1)
    answered = [n for n, turn in enumerate(row.turns) if turn.role == "assistant"]
    return Length(
        prompt=len(prompt.ids),
        image=prompt.ids.count(encoder.image_id),
        views=sum(_views(encoder, path) for path in row.images) if len(pieces) == 5 else pieces[0],
        completion=len(encoder.completion(row.turns, row.completion)),
        earlier=sum(len(encoder.completion(row.turns[:n], row.turns[n].text)) for n in answered),
    )


def _views(encoder: Encoder, path: Path) -> int:
    return int(encoder.image(path).images["pixel_values"].shape[1])


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_lengths_are_those_of_tokenizer_and_processor_to_the_token(
    family: str, root: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(family)
    rows = mixed_rows(root)
    encoder = look_ahead(folder).encoder
    lengths = Lengths(encoder)
    found = lengths.measure(rows)
    assert found == [as_encoded(row, encoder) for row in rows]
    assert not lengths.decodes  # sizes were enough
    assert len({length.image for length in found if isinstance(length, Length)}) == (3 if family == "llava" else 7)


def test_a_processor_that_names_wrong_numbers_is_not_believed(llava: Path, root: Path) -> None:
    encoder = look_ahead(llava).encoder
    encoder.processor.image_processor.crop_size = {"height": 48, "width": 96}  # what it would tell ...
    encoder.processor.image_processor.do_center_crop = False  # ... and does not do
    rows = [
        Asked(ask_about(image).turns, [root / image.path], "Red.")
        for image in (save_image(root, f"w{n}.png", seed=n, size=(48 * n, 48)) for n in (1, 3))
    ]
    lengths = Lengths(encoder)
    assert lengths.measure(rows) == [as_encoded(row, encoder) for row in rows]
    assert lengths.decodes


def test_sizes_are_those_of_the_pixels_however_the_camera_was_held(tmp_path: Path) -> None:
    picture = PILImage.new("RGB", (40, 20))
    for held in range(1, 9):
        exif = PILImage.Exif()
        exif[0x0112] = held
        for kind in ("jpg", "png", "webp"):
            path = tmp_path / f"{held}.{kind}"
            picture.save(path, exif=exif)
            assert pixels.size(path) == pixels.rgb(path).size == ((40, 20) if held < 5 else (20, 40))
    (tmp_path / "no.png").write_bytes(b"not an image")
    with pytest.raises(pixels.UnreadableImage):
        pixels.size(tmp_path / "no.png")


def test_a_file_is_counted_row_by_row_and_what_cannot_be_trained_on_apart(llava: Path, root: Path) -> None:
    image = save_image(root, "c.png", seed=3)
    asked = ask_about(image, text="Which digit is blue?")
    gone = ask_about(image.__class__(path="gone.png", sha256="0" * 64))
    long = Prompt.of((Turn(role="user", text="word " * 600),), reference="Yes.")
    dialogue = [
        Turn(role="user", text="Name three fruits."),
        Turn(role="assistant", text="Apple, pear, plum."),
        Turn(role="user", text="One more."),
        Turn(role="assistant", text="Pear."),
    ]
    path = root / "rows.jsonl"
    lines = [
        Example.of(prompt=asked, completion="The blue digit is 4.", source="x"),
        Prompt.of(asked.turns, reference="It is 4."),
        Example.of(prompt=gone, completion="4", source="x"),
        long,
        Example.of(prompt=Prompt.of((Turn(role="user", text="Yes?"),)), completion=" ", source="x"),
        {"schema": "conversation/1", "turns": [{"role": t.role, "text": t.text, "images": []} for t in dialogue]},
    ]
    write_records(path, lines)
    encoder = look_ahead(llava).encoder
    found = count(asked_rows(path, root), Lengths(encoder), limit=512)
    talk = [Turn(role="user", text="Name three fruits."), *dialogue[1:3]]
    sizes = [as_encoded(Asked(asked.turns, [root / "c.png"], a), encoder) for a in ("The blue digit is 4.", "It is 4.")]
    sizes.append(as_encoded(Asked(talk, [], "Pear."), encoder))
    assert found.tokens == Tokens(
        rows=3,
        with_images=2,
        images=2,
        views=2,
        lm=sum(size.tokens for size in sizes),
        image=18,  # nine patches each
        trained=sum(size.completion + size.earlier for size in sizes),
        squared=sum(size.tokens**2 for size in sizes),
    )
    assert sizes[-1].earlier > 3
    assert found.left_out == {"image_unreadable": 1, "too_long": 1, "completion_empty": 1}
    assert found.details["image_unreadable"] == "an image is missing; is the image root right?"
    rows = [row._replace(whole=False) for row in asked_rows(path, root)]
    last_answer = count(rows, Lengths(encoder), limit=512)
    assert found.tokens.trained - last_answer.tokens.trained == sizes[-1].earlier


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"schema":"item/1"}', "schema 'item/1' is none of example/1, prompt/1, conversation/1"),
        ('{"schema":"prompt/1"', "not a line of JSON"),
        (Prompt.of((Turn(role="user", text="Yes?"),)).to_line().decode(), "a prompt without a reference"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, fault: str) -> None:
    (tmp_path / "rows.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"rows\.jsonl:1: ") as error:
        list(asked_rows(tmp_path / "rows.jsonl", tmp_path))
    assert fault in str(error.value)


# -------------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("learns", ["full", "projector", "lora"])
def test_operations_are_those_that_torch_counts(llava: Path, root: Path, learns: str) -> None:
    """Matrix products alone are counted on both sides. LoRA's first layer, of two, passes no gradient on."""
    parts = {
        "full": Parts(language="full", projector="full"),
        "projector": Parts(language="frozen", projector="full"),
        "lora": Parts(),
    }[learns]
    settings = Train(parts=parts, lora=Lora(r=4, alpha=8, dropout=0.0))
    ahead = look_ahead(llava)
    image = save_image(root, "f.png", seed=5)
    row = Asked(ask_about(image, text="Which digit is blue? " * 8).turns, [root / image.path], "Four. " * 20)
    counted = count([row], Lengths(ahead.encoder)).tokens
    expected = training_flops(counted, model_of(list(tensors(llava)), ahead.config, settings))

    model = AutoModelForImageTextToText.from_pretrained(llava, attn_implementation="eager")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_((learns == "full" and "vision_tower" not in name) or "projector" in name)
    if learns == "lora":
        from peft import LoraConfig, get_peft_model

        lora = settings.lora
        config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=lora.target, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    prompt = ahead.encoder.prompt(row.turns, row.images)
    ids = torch.tensor([prompt.ids + ahead.encoder.completion(row.turns, row.completion)])
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids, **prompt.images).loss.backward()
    assert counter.get_total_flops() == pytest.approx(expected.total, rel=0.03 if learns == "lora" else 0.002)
