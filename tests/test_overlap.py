"""Texts and images of evaluation sets found in other data: equal, contained, changed copies; and what is no copy."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import NAMES, photographs
from PIL import Image, ImageDraw
from test_demo_world import prepare

from align.doctor.sets import Gallery, entry_of, load_set
from align.overlap import Entry, Overlap, words
from align.prints import ImagePrint, fingerprint, fingerprint_of, near
from annotate.errors import UserError
from annotate.records import Completion, PreferencePair, Prompt, Turn

PASSAGE = (
    "The lighthouse at the northern cape was built by three brothers who carried every stone up the cliff by hand "
    "and who never told anybody in the village why they did it"
)  # 32 words: 20 n-grams of 13


def photo(name: str) -> Image.Image:
    return Image.open(photographs() / f"{name}.jpg")


def jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = BytesIO()
    picture.convert("RGB").save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def printed(data: bytes) -> ImagePrint:
    found = fingerprint_of(data)
    assert found is not None
    return found


def distance(a: Image.Image, b: Image.Image) -> int:
    """The larger of the two distances."""
    one, other = fingerprint(a), fingerprint(b)
    assert one is not None and other is not None
    return max((x ^ y).bit_count() for x, y in zip(one, other, strict=True))


def file_distance(a: bytes, b: bytes) -> int:
    """The larger of the two distances of files."""
    one, other = printed(a), printed(b)
    assert one.dct is not None and one.gradient is not None and other.dct is not None and other.gradient is not None
    return max((one.dct ^ other.dct).bit_count(), (one.gradient ^ other.gradient).bit_count())


def question(name: str, *texts: str, images: tuple[ImagePrint, ...] = ()) -> Entry:
    return Entry(id=name, texts=texts, images=images, n_images=len(images))


def found(questions: list[Entry], records: list[Entry], **options: Any) -> dict[str, Any]:
    overlap = Overlap("set", questions, **options)
    for record in records:
        overlap.add(record)
    return overlap.result()


# ------------------------------------------------------------------------------------------------------------- text


def test_words_are_what_is_left_without_case_punctuation_and_spacing() -> None:
    assert words("<image>\nDon’t  PANIC, “Ünal”: 3.5!") == ["don't", "panic", "ünal", "3", "5"]
    assert words("日本 and ﬁne") == ["日", "本", "and", "fine"]
    assert words(" ?! ") == []


def test_an_equal_question_names_both_sides_and_the_words() -> None:
    result = found(
        [question("q1", "What is the capital of France?"), question("q2", "Name a river.")],
        [question("r9", "what is the capital of france"), question("r2", "  What is the Capital of France ?!")],
    )
    assert result["leaked"] == {"value": 0.5, "n": 2}
    assert result["n_records"] == 2
    (only,) = result["findings"]
    assert only == {
        "item": "q1",
        "leaked": True,
        "text": "exact",
        "share": 1.0,
        "image": None,
        "together": False,
        "record": "r2",  # the first by id of the two that hold it
        "evidence": "what is the capital of france",
    }


def test_a_short_question_inside_a_longer_text_is_no_copy() -> None:
    result = found([question("q", "Why is that?")], [question("r", "He asked: why is that? Nobody knew.")])
    assert result["n_findings"] == 0
    assert result["text"]["exact_only"] == 1


def test_a_short_question_on_a_line_of_its_own_is_a_copy() -> None:
    result = found([question("q", "Is there a dog?")], [question("r", "Is there a dog?\nAnswer with a single word.")])
    assert result["findings"][0]["text"] == "exact"


def test_containment_is_the_share_of_n_grams_that_one_record_holds() -> None:
    split = PASSAGE.split()
    half = " ".join(split[:22])  # 22 words hold 10 of the 20 n-grams of 13
    result = found([question("q", PASSAGE)], [question("r", "Once more. " + half + " and so on")])
    assert (result["findings"][0]["text"], result["findings"][0]["share"]) == ("contained", 0.5)
    assert result["findings"][0]["evidence"] == " ".join(split[:13]).lower()
    less = found([question("q", PASSAGE)], [question("r", " ".join(split[:21]))])  # 9 of 20
    assert (less["findings"][0]["text"], less["findings"][0]["share"]) == ("touched", 0.45)
    assert less["leaked"] == {"value": 0.0, "n": 1}
    # two records that hold a half each do not make a whole
    parts = [question("a", " ".join(split[:16])), question("b", " ".join(split[16:]))]
    assert found([question("q", PASSAGE)], parts)["findings"][0]["share"] == 0.2  # 16 words: 4 of 20


def test_questions_of_eight_to_twelve_words_are_compared_by_eight() -> None:
    asked = "How many green bottles are standing on the garden wall"  # 10 words: 3 n-grams of 8
    inside = "Tell me, how many green bottles are standing on the garden gate?"  # holds the first 2 of them
    result = found([question("q", asked)], [question("r", inside)])
    assert result["findings"][0]["share"] == 0.6667
    assert found([question("q", asked)], [question("r", inside)], sizes=(13,))["n_findings"] == 0


def test_the_form_of_words_of_a_set_counts_for_none_of_its_questions() -> None:
    form = "Answer the question using a single word or a short phrase, and say nothing else at all."
    things = ["cat", "dog", "cow", "hen", "pig", "fox", "owl", "bee", "ant", "eel", "emu", "elk"]
    questions = [question(thing, f"Is there a {thing} in the image?\n{form}") for thing in things]
    assert found(questions, [question("r", f"Where is it?\n{form}")])["n_findings"] == 0
    told = found(questions, [question("r", "Is there a cow in the image?")])  # without the form, on the other side
    assert [f["item"] for f in told["findings"]] == ["cow"]


def test_later_turns_are_exact_texts_only_where_they_are_long() -> None:
    two = question("q", "Write a poem.", "Shorter.")
    assert found([two], [question("r", "Shorter.")])["n_findings"] == 0
    assert found([two], [question("r", "Write a poem.")])["findings"][0]["text"] == "exact"


def test_the_turn_that_is_contained_most_decides() -> None:
    """The first turn, 2 n-grams, stands in a longer text: all of the turn, though 2 of the 22 of the question."""
    first = "Compose an engaging travel blog post about a recent trip of yours to Hawaii"  # 14 words: 2 n-grams
    asked = question("q", first, PASSAGE, "Shorter.")
    result = found([asked], [question("r", first + " Thanks!")])
    assert (result["findings"][0]["text"], result["findings"][0]["share"]) == ("contained", 1.0)
    assert result["leaked"] == {"value": 1.0, "n": 1}
    # of two turns that are there in part, neither adds to the other
    parts = " ".join(first.split()[:13]) + ". " + " ".join(PASSAGE.split()[:16])  # 1 of 2, 4 of 20
    assert found([asked], [question("r", parts)])["findings"][0]["share"] == 0.5
    # a turn of 8 to 12 words has n-grams of 8 beside a turn that has longer ones
    short = "How many green bottles are standing on the wall"  # 9 words: 2
    result = found([question("q", short, PASSAGE)], [question("r", f"Please: {short}, thank you")])
    assert (result["findings"][0]["share"], result["text"]["exact_only"]) == (1.0, 0)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(6)), st.permutations(range(4)))
def test_what_is_found_depends_on_no_order(records: list[int], questions: list[int]) -> None:
    split = PASSAGE.split()
    texts = ["Name a river.", PASSAGE, " ".join(split[:20]), " ".join(split[5:]), "name a RIVER", "no"]
    asked = [question(str(i), t) for i, t in enumerate([PASSAGE, "Name a river.", "Name a lake.", PASSAGE + " at all"])]
    made = [question(f"r{i}", text) for i, text in enumerate(texts)]
    expected = found(asked, made)
    assert found([asked[i] for i in questions], [made[i] for i in records]) == expected


# ----------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("name", "dct", "gradient"),
    # `imagehash.phash` and `imagehash.dhash` of these files, ImageHash 4.3.2 with Pillow 13.0
    [
        ("astronaut", 0xC2924C5532BDDFC8, 0xCD8DD91D897293A7),
        ("china", 0x9DB8C2C7445DBB24, 0xBFBF3A383C3870E0),
        ("moon", 0xA3D9765214369877, 0x4C530A0E0F0F4F2D),
        ("rocket", 0xC0371BEC1BE51267, 0xE0C0C090909090D1),
    ],
)
def test_hashes_are_those_of_the_library_everybody_uses(name: str, dct: int, gradient: int) -> None:
    # bits at the median may turn with another JPEG decoder; different photographs are 20 bits apart
    ours = fingerprint(photo(name))
    assert ours is not None
    assert (ours[0] ^ dct).bit_count() <= 2 and (ours[1] ^ gradient).bit_count() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_changed_copies_of_a_photograph_are_near(name: str) -> None:
    original = photo(name)
    width, height = original.size
    small = original.resize((width // 2, height // 2))
    copies = {
        "half the size": small,
        "square, as models see it": original.resize((336, 336)),
        "JPEG of quality 30": Image.open(BytesIO(jpeg(original, 30))),
        "half the size, quality 40": Image.open(BytesIO(jpeg(small, 40))),
        "grey": original.convert("L"),
    }
    assert {k: d for k, copy in copies.items() if (d := distance(original, copy)) > 5} == {}


def test_most_slightly_cropped_copies_are_near() -> None:
    apart = {}
    for name in NAMES:
        original = photo(name)
        left, top = original.width // 100, original.height // 100
        cropped = original.crop((left, top, original.width - left, original.height - top))
        apart[name] = distance(original, cropped)
    assert {name for name, bits in apart.items() if bits > 5} == {"rocket"}  # 1% at each side; that one differs in 6
    assert apart["rocket"] == 6


def test_other_photographs_and_large_changes_are_not_near() -> None:
    pictures = [photo(name) for name in NAMES]
    apart = [distance(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(apart) >= 20
    cat = photo("chelsea")
    width, height = cat.size
    assert distance(cat, cat.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 20
    assert distance(cat, cat.crop((width // 5, height // 5, width - width // 5, height - height // 5))) > 5


def test_flat_images_have_no_hashes_and_match_nothing() -> None:
    blank, other = Image.new("RGB", (300, 200), "white"), Image.new("RGB", (64, 64), (250, 250, 250))
    assert fingerprint(blank) is None
    assert fingerprint(Image.open(BytesIO(jpeg(blank, 20)))) is None
    flat = printed(png(blank))
    assert flat.flat and flat.dct is None
    result = found(
        [question("q", "What is it?", images=(flat,))],
        [question("r", "What is it?", images=(flat,)), question("s", "What is it?", images=(printed(png(other)),))],
    )
    assert result["images"] | {"shared": None} == {
        "shared": None, "same": 0, "near": 0, "name": 0, "flat": 1, "n_unreadable": 0, "n_records_unreadable": 0,
        "n_by_bytes_only": 0,
    }  # fmt: skip
    assert result["leaked"]["value"] == 0.0


def test_transparency_and_rotation_are_compared_as_a_viewer_shows_them() -> None:
    cat = photo("chelsea")
    turned = cat.transpose(Image.Transpose.ROTATE_90)  # counter-clockwise; orientation 6 turns it back
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = BytesIO()
    turned.save(stream, "JPEG", quality=95, exif=exif)
    assert file_distance(jpeg(cat, 95), stream.getvalue()) <= 5
    see_through = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(see_through).ellipse((20, 60, 150, 190), fill=(200, 30, 30, 255))
    on_white = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(on_white).ellipse((20, 60, 150, 190), fill=(200, 30, 30))
    assert file_distance(png(see_through), png(on_white)) == 0


@pytest.mark.parametrize("name", ["chelsea", "moon", "rocket"])
def test_grey_of_16_bits_is_compared_by_its_upper_8(name: str) -> None:
    """As `annotate/pixels.py` draws it for everybody; cut off at 255, nearly all of it would be white."""
    grey = photo(name).convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert file_distance(png(grey), png(deep)) == 0


def test_an_image_that_nobody_can_look_at_has_no_print() -> None:
    """What `align/formats/images.py` refuses: real numbers, whose black and white nobody defines; a strip."""
    floats, strip = BytesIO(), Image.linear_gradient("L").resize((900, 3))
    Image.linear_gradient("L").convert("F").save(floats, "TIFF")
    assert fingerprint_of(floats.getvalue()) is None
    assert fingerprint_of(png(strip)) is None


def test_what_is_no_image_or_too_large_has_no_print() -> None:
    whole = jpeg(photo("chelsea"), 80)
    assert fingerprint_of(b"hello") is None
    assert fingerprint_of(whole[: len(whole) // 2]) is None
    assert fingerprint_of(whole, max_pixels=1000) is None


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_search_finds_what_comparing_each_with_each_finds(data: st.DataObject) -> None:
    hashes = st.integers(0, 2**64 - 1)
    a = data.draw(st.lists(hashes, max_size=6))
    near_ones = st.builds(
        lambda x, bits: x ^ sum(1 << bit for bit in bits), st.sampled_from(a), st.sets(st.integers(0, 63), max_size=11)
    )
    b = data.draw(st.lists(near_ones if a else hashes, max_size=6))
    limit = data.draw(st.integers(0, 9))
    i, j = near(np.array(a, dtype=np.uint64), np.array(b, dtype=np.uint64), limit)
    expected = [(x, y) for x in range(len(a)) for y in range(len(b)) if (a[x] ^ b[y]).bit_count() <= limit]
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == expected


# ------------------------------------------------------------------------------------------------------------- both


def test_a_question_about_an_image_is_asked_again_where_both_meet_in_one_record() -> None:
    cat, cat_again = printed(jpeg(photo("chelsea"), 90)), printed(jpeg(photo("chelsea"), 40))
    china = printed(jpeg(photo("china"), 90))
    asked = question("q", "What is it?", images=(cat,))
    apart = found(
        [asked],
        [question("r1", "What is it?", images=(china,)), question("r2", "Who is she?", images=(cat_again,))],
    )
    assert apart["leaked"] == {"value": 0.0, "n": 1}
    assert apart["images"]["shared"] == {"value": 1.0, "n": 1}
    assert (apart["findings"][0]["text"], apart["findings"][0]["image"]) == ("exact", "near")
    together = found([asked], [question("r3", "What is it?", images=(china, cat_again))])
    assert together["leaked"] == {"value": 1.0, "n": 1}
    assert together["findings"][0]["record"] == "r3"
    same = found([asked], [question("r", "Else.", images=(cat,))])
    assert (same["findings"][0]["image"], same["findings"][0]["record"]) == ("same", "r")


def _two(said: str) -> str:
    return "2 " + said.replace("is asked", "are asked").replace("its", "their")


def test_an_image_that_was_not_opened_is_known_by_its_file_name() -> None:
    def unopened(name: str, text: str, image: str) -> Entry:
        return Entry(id=name, texts=(text,), n_images=1, unopened=(image,))

    def opened(name: str, text: str, image: str, photograph: str) -> Entry:
        return question(name, text, images=(replace(printed(jpeg(photo(photograph), 90)), name=image),))

    asked = [unopened("q", "Is it a cat?", "1.jpg"), unopened("p", "Is it a cat?", "2.jpg")]
    for record in (unopened("r", "Is it a cat?", "1.jpg"), opened("r", "Is it a cat?", "1.jpg", "chelsea")):
        result = found(asked, [record])
        assert [(f["item"], f["leaked"], f["image"]) for f in result["findings"]] == [
            ("q", True, "name"), ("p", None, None),
        ]  # fmt: skip
        assert (result["leaked"]["value"], result["leaked"]["n"], result["leaked"]["unknown"]) == (1.0, 1, 1)
        assert result["images"]["name"] == 1
    # the other way round; and two that were opened are what they show, whatever they are called
    china = opened("q", "Is it a cat?", "1.jpg", "china")
    assert found([china], [unopened("r", "Is it a cat?", "1.jpg")])["findings"][0]["image"] == "name"
    assert found([china], [opened("r", "Is it a cat?", "1.jpg", "chelsea")])["findings"][0]["leaked"] is False
    # a name alone is no question asked again, but an image that is shared
    apart = found(asked[:1], [unopened("r", "Where?", "1.jpg")])
    assert (apart["leaked"]["value"], apart["images"]["shared"]["value"]) == (0.0, 1.0)
    assert apart["findings"][0]["record"] == "r"


def test_what_cannot_be_compared_is_not_called_clean() -> None:
    asked = Entry(id="q", texts=("What is it?",), n_images=1)  # its image could not be read
    clean = found([asked], [question("r", "Name a river.")])
    assert clean["leaked"] == {"value": 0.0, "n": 1}  # without the text it cannot be the question
    alone = found([asked], [question("r", "What is it?")])
    assert alone["leaked"] == {"value": 0.0, "n": 1}  # nor without an image, whatever its own one is
    unknown = found([asked], [Entry(id="r", texts=("What is it?",), n_images=1)])
    assert unknown["leaked"]["value"] is None and unknown["n_unknown"] == 1
    said = "is asked in the data, its images could not be compared: give NAME=FILE,IMAGE_ROOT and --image-root"
    assert unknown["leaked"]["why"] == f"1 {said}"
    assert (unknown["findings"][0]["leaked"], unknown["findings"][0]["text"]) == (None, "exact")
    cat = printed(jpeg(photo("chelsea"), 90))
    blind = found([question("q", "What?", images=(cat,))], [Entry(id="r", texts=("What?",), n_images=1)])
    assert blind["leaked"]["why"] == f"1 {said}"
    # others of the data were opened, one of the question's other images was: what met the text was not
    other = question("s", "Else.", images=(printed(jpeg(photo("china"), 90)),))
    asked_too = Entry(id="p", texts=("What?",), images=(cat,), n_images=2)
    some = found(
        [question("q", "What?", images=(cat,)), asked_too, question("z", "Never?", images=(cat,))],
        [Entry(id="r", texts=("What?",), n_images=1), other],
    )
    assert some["leaked"] == {"value": 0.0, "n": 1, "unknown": 2, "why": _two(said)}
    by_bytes = found([question("q", "What?", images=(ImagePrint(sha256="00"),))], [question("r", "?", images=(cat,))])
    assert by_bytes["images"]["n_by_bytes_only"] == 1


# ------------------------------------------------------------------------------------------------- evaluation sets


def test_each_layout_of_an_evaluation_set_is_read(tmp_path: Path) -> None:
    # POPE: RUCAIBox/POPE at e3e39262, output/coco/coco_pope_random.json; FastChat: mt_bench/question.jsonl
    (tmp_path / "cat.jpg").write_bytes(jpeg(photo("chelsea"), 80))
    pope = tmp_path / "coco_pope_random.json"
    pope.write_text('{"question_id": 1, "image": "cat.jpg", "text": "Is there a cat in the image?", "label": "yes"}\n')
    (entry,) = load_set("pope", pope, tmp_path)
    assert (entry.id, entry.texts, entry.n_images, len(entry.images)) == ("1", ("Is there a cat in the image?",), 1, 1)
    assert entry.images[0].dct is not None
    (blind,) = load_set("pope", pope, None)
    assert (blind.n_images, blind.images) == (1, ())
    bench = tmp_path / "question.jsonl"
    bench.write_text('{"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Now in French."]}\n')
    (entry,) = load_set("mt", bench, None)
    assert (entry.id, entry.texts) == ("81", ("Write a poem.", "Now in French."))
    lines = tmp_path / "lines.txt"
    lines.write_text("What is it?\n\nWho is she?\n")
    assert [(e.id, e.texts) for e in load_set("l", lines, None)] == [
        ("line 1", ("What is it?",)),
        ("line 3", ("Who is she?",)),
    ]
    llava = tmp_path / "llava.json"
    llava.write_text(json.dumps([{"id": "a", "image": "cat.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]}]))  # fmt: skip
    (entry,) = load_set("llava", llava, tmp_path)
    assert entry.texts == ("<image>\nWhat is it?",) and entry.images[0].dct is not None


@pytest.mark.parametrize(
    ("row", "name", "text"),
    [
        # tatsu-lab/alpaca_eval, alpaca_eval.json
        (
            {"dataset": "helpful_base", "instruction": "Who is she?", "output": "Ada.", "generator": "davinci"},
            "row 1", "Who is she?",
        ),
        ({"question_id": 7, "image": "cat.jpg", "question": "What is it?", "answer": "a cat"}, "7", "What is it?"),
        ({"id": "p3", "prompt": "Name a river.", "category": "geography"}, "p3", "Name a river."),
    ],
)  # fmt: skip
def test_rows_that_hold_a_question_are_read(tmp_path: Path, row: dict[str, Any], name: str, text: str) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpeg(photo("chelsea"), 80))
    (tmp_path / "set.json").write_text(json.dumps([row]))
    (entry,) = load_set("s", tmp_path / "set.json", tmp_path)
    assert (entry.id, entry.texts, len(entry.images)) == (name, (text,), int("image" in row))


def test_our_own_benchmarks_are_read(tmp_path: Path) -> None:
    prepare(tmp_path)
    entries = load_set("own", tmp_path / "bench" / "test" / "pope.jsonl", tmp_path / "images")
    assert len(entries) == 16
    assert all(entry.n_images == 1 and len(entry.images) == 1 for entry in entries)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"foo": 1, "bar": 2}\n', "its first row has foo, bar"),
        ('{"question_id": 1, "text": 5}\n', "set.jsonl:1: expected text or question or prompt"),
        ('{"question_id": 1, "turns": ["a"]}\n{"question_id": 2, "turns": "a"}\n', "set.jsonl:2: expected `turns`"),
        ("", "empty"),
    ],
)
def test_what_is_no_evaluation_set_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_set("set", path, None)


def test_a_path_that_leaves_the_root_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpeg(photo("chelsea"), 80))
    root = tmp_path / "root"
    root.mkdir()
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "out.jpg").symlink_to("../cat.jpg")
    os.mkfifo(root / "pipe.jpg")
    gallery = Gallery(root)
    for path in ("../cat.jpg", str(tmp_path / "cat.jpg"), "a\0b", "loop.jpg", "out.jpg", "pipe.jpg", "x" * 5000, ""):
        assert gallery.named(path).sha256 == f"path:{path}"
        assert gallery.print_of(gallery.named(path)) is None


def test_embedded_images_are_compared_too() -> None:
    gallery = Gallery(None)
    image = gallery.embedded(jpeg(photo("chelsea"), 50), "cat.jpg")
    ours = gallery.print_of(image)
    assert ours is not None and ours.sha256 == image.sha256 and ours.dct is not None
    broken = gallery.embedded(b"no image")
    assert gallery.print_of(broken) is None


def test_a_record_is_searched_in_all_its_turns_and_completions() -> None:
    prompt = Prompt.of((Turn(role="system", text="Be kind."), Turn(role="user", text="What is it?")), source_id="mine")
    a, b = (Completion.of(prompt_id=prompt.id, model="m", index=i, text=t) for i, t in enumerate(("A cat.", "A dog.")))
    pair = PreferencePair.of(prompt=prompt, chosen=a, rejected=b, margin=2.0, rule="r")
    entry = entry_of(pair, Gallery(None))
    assert entry.texts == ("What is it?", "A cat.", "A dog.")
    assert entry.id == f"mine ({prompt.id})"


REAL = os.environ.get("MMALIGN_REAL_DATA")


@pytest.mark.skipif(not REAL, reason="MMALIGN_REAL_DATA is not set: the real MT-Bench and POPE questions are not here")
def test_real_sets_are_found_in_themselves_and_not_in_each_other() -> None:
    assert REAL is not None
    mt = load_set("mt", Path(REAL) / "mt_bench" / "question.jsonl", None)
    pope = load_set("pope", Path(REAL) / "pope" / "llava_pope_test.jsonl", None)
    assert (len(mt), len(pope)) == (80, 8910)
    assert found(mt, mt)["leaked"] == {"value": 1.0, "n": 80}
    assert found(mt, pope)["n_findings"] == 0
    # wrapped a little, all first turns are found that have 8 words
    wrapped = found(mt, [Entry(id=q.id, texts=(f"{q.texts[0]} Thanks!",)) for q in mt])
    short = sum(len(words(q.texts[0])) < 8 for q in mt)
    assert wrapped["leaked"] == {"value": round(1 - short / 80, 4), "n": 80} and short <= 2
    # POPE's own file holds the same questions without LLaVA's second line
    plain = load_set("plain", Path(REAL) / "pope" / "coco_pope_random.json", None)
    known = {q.texts[0] for q in plain}
    assert found(pope, plain)["text"]["exact"] == sum(q.texts[0].split("\n")[0] in known for q in pope) > 8000
