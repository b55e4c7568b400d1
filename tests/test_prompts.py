"""Prompts are checked whole before any work: every fault told at once, with place and remedy."""

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image as Pillow

from align.prompts import load_prompts
from align.settings import Prompts
from annotate.errors import UserError
from annotate.jsonl import dump_line
from annotate.records import Image, Prompt, Reason, Turn


def png(path: Path, colour: str = "red", size: tuple[int, int] = (4, 3)) -> str:
    """Writes an image; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", size, colour).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def llava(id: str, image: str | list[str] | None, question: str, answer: str | None = "Yes.") -> dict:
    turns = [{"from": "human", "value": question}]
    if answer is not None:
        turns.append({"from": "gpt", "value": answer})
    return {"id": id, **({} if image is None else {"image": image}), "conversations": turns}


def load(folder: Path, rows: object, **options: object):
    """Rows as a LLaVA list, or text or bytes as they are."""
    file = folder / "prompts.json"
    if isinstance(rows, bytes):
        file.write_bytes(rows)
    else:
        file.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return load_prompts(Prompts(file=str(file), image_root=str(folder), **options))


def faults(folder: Path, rows: object, **options: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(folder, rows, **options)
    return [fault.replace(str(folder) + "/", "") for fault in caught.value.faults]


# ------------------------------------------------------------------------------------------------ the two formats


def test_a_llava_row_becomes_a_prompt_and_its_answer_the_reference(tmp_path):
    sha256 = png(tmp_path / "cats" / "a.png")
    row = llava("p1", "cats/a.png", "<image>\nWhat is this?", "A cat.") | {"polarity": "positive"}
    (prompt,) = load(tmp_path, [row]).prompts
    assert prompt == Prompt.of(
        (Turn(role="user", text="<image>\nWhat is this?", images=(Image(path="cats/a.png", sha256=sha256),)),),
        source="prompts",  # the file's name, since the row names no collection
        source_id="p1",
        reference="A cat.",
        meta={"polarity": "positive"},
    )


def test_a_longer_dialogue_keeps_all_but_the_last_answer(tmp_path):
    png(tmp_path / "a.png")
    row = llava("p1", "a.png", "<image>\nWhat?", "A cat.")
    row["conversations"] += [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "On a mat."}]
    (prompt,) = load(tmp_path, [row]).prompts
    assert [(t.role, t.text) for t in prompt.turns] == [
        ("user", "<image>\nWhat?"),
        ("assistant", "A cat."),
        ("user", "Where?"),
    ]
    assert prompt.reference == "On a mat."


def test_several_images_stand_where_their_placeholders_are(tmp_path):
    red, blue = png(tmp_path / "red.png", "red"), png(tmp_path / "blue.png", "blue")
    row = llava("p1", ["red.png", "blue.png"], "<image>\nWhat?", "Red.")
    row["conversations"] += [{"from": "human", "value": "And <image>?"}]
    (prompt,) = load(tmp_path, [row]).prompts
    assert [[i.sha256 for i in t.images] for t in prompt.turns] == [[red], [], [blue]]
    assert prompt.reference is None


def test_text_only_rows_and_lines_instead_of_a_list_are_read(tmp_path):
    lines = "".join(json.dumps(llava(str(i), None, f"What is {i} + 1?", str(i + 1))) + "\n" for i in range(3))
    assert [p.reference for p in load(tmp_path, "\ufeff" + lines).prompts] == ["1", "2", "3"]


def test_records_are_read_as_they_were_written(tmp_path):
    image = Image(path="a.png", sha256=png(tmp_path / "a.png"))
    written = Prompt.of((Turn(role="user", text="<image>\nIs there a 7?", images=(image,)),), source_id="x", source="s")
    assert load(tmp_path, dump_line(written)).prompts == (written,)


def test_ids_do_not_depend_on_paths_or_file_names(tmp_path):
    png(tmp_path / "a.png"), png(tmp_path / "elsewhere" / "b.png")
    one = load(tmp_path, [llava("1", "a.png", "<image>\nWhat?")])
    other = load(tmp_path, [llava("2", "elsewhere/b.png", "<image>\nWhat?")])
    assert one.prompts[0].id == other.prompts[0].id


# ----------------------------------------------------------------------------------------------------- bad images


def corrupt_png() -> bytes:
    stream = io.BytesIO()
    Pillow.linear_gradient("L").save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def wrong_checksum_png() -> bytes:
    """Decodes, but the checksum of its pixels says that they are not those that were written."""
    stream = io.BytesIO()
    Pillow.linear_gradient("L").save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[-13] ^= 0xFF  # the last 12 bytes are the closing chunk, before it stands the checksum
    return bytes(data)


def bomb(width: int, height: int) -> bytes:
    """A PNG of 70 bytes whose header promises width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    stream = io.BytesIO()
    Pillow.effect_noise((64, 64), 50).save(stream, "JPEG")
    return stream.getvalue()[:-200]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (corrupt_png(), "is corrupt"),
        (wrong_checksum_png(), "is corrupt"),
        (truncated_jpeg(), "is corrupt (OSError: image file is truncated"),
        (b"<html>404 not found</html>", "is not an image"),
        (b"", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image"),
        (bomb(10_000, 6_000), "is 10000 x 6000 pixels, more than prompts.max_image_pixels (50000000)"),
        (bomb(12_000, 10_000), "is 12000 x 10000 pixels, more than"),
        (bomb(60_000, 60_000), "is it a decompression bomb?"),
    ],
    ids=["bit flip", "checksum", "cut jpeg", "html", "empty", "eps", "60 MP", "120 MP", "3600 MP"],
)
def test_files_that_are_no_usable_image(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    (fault,) = faults(tmp_path, [llava("p1", "a.png", "<image>\nWhat?")])
    assert fault.startswith("prompts.json row 1: image 'a.png': ")
    assert message in fault


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.png", "no such file below prompts.image_root"),
        ("folder", "no such file"),
        ("/etc/hostname", "is absolute"),
        ("C:\\cat.png", "is absolute"),
        ("../outside.png", "leaves its root by '..'"),
        ("folder/../../outside.png", "leaves its root by '..'"),
        ("link.png", "is a link that leaves its root"),
        ("a\0b.png", "cannot be read"),
        ("loop.png", "cannot be read"),
        ("x" * 300, "cannot be read (File name too long)"),
    ],
)
def test_paths_that_are_missing_or_leave_their_root(tmp_path, path, message):
    png(tmp_path / "outside.png")
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (fault,) = faults(root, [llava("p1", path, "<image>\nWhat?")])
    assert message in fault


def test_an_image_changed_after_its_record_was_written(tmp_path):
    image = Image(path="a.png", sha256=png(tmp_path / "a.png", "red"))
    written = Prompt.of((Turn(role="user", text="<image>\nWhat?", images=(image,)),))
    png(tmp_path / "a.png", "blue")
    (fault,) = faults(tmp_path, dump_line(written))
    assert fault.startswith("prompts.json:1: image 'a.png' has sha256 ") and "changed after" in fault


# ------------------------------------------------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (llava("p", "a.png", "What?"), "0 <image> placeholder(s) but 1 image(s)"),
        (llava("p", "a.png", "<image><image>\nWhat?"), "2 <image> placeholder(s) but 1 image(s)"),
        (llava("p", None, "<image>\nWhat?"), "1 <image> placeholder(s) but 0 image(s)"),
        (llava("p", "a.png", "<image>\n  "), "a user turn has no text; write the question"),
        (llava("p", None, ""), "a user turn has no text"),
        ({"id": "p", "conversations": []}, '"conversations" must be a list with at least one turn'),
        ({"id": "p", "conversations": [{"from": "gpt", "value": "Hi."}]}, "turns must alternate"),
        ({"id": "p", "conversations": [{"from": "bob", "value": "Hi."}]}, "conversations[0].from: 'bob' is none of"),
        ({"id": "p", "conversations": [{"from": ["human"], "value": "Hi."}]}, "conversations[0].from: ['human']"),
        ({"id": "p", "conversations": ["Hi."]}, "conversations[0].from: None"),
        ({"id": "p", "conversations": [{"from": "human", "value": 3}]}, "value: expected text, got int"),
        ({"id": 1.5, "conversations": [{"from": "human", "value": "Hi."}]}, "id: expected text or a number"),
        ({"id": "p", "image": 3, "conversations": [{"from": "human", "value": "Hi."}]}, "image: expected a path"),
        ({"image": "a", "images": [], "conversations": [{"from": "human", "value": "Hi."}]}, "keep one"),
        (llava("p", None, "half a \ud83d face"), "half of a surrogate pair"),
    ],
)
def test_llava_rows_that_make_no_prompt(tmp_path, row, message):
    png(tmp_path / "a.png")
    (fault,) = faults(tmp_path, [llava("good", "a.png", "<image>\nFine?"), row])
    assert fault.startswith("prompts.json row 2: ") and message in fault


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "prompts.json: empty; expected JSONL of prompt records"),
        (b"[]", "prompts.json: the list is empty"),
        (b'[{"id": "p1",\n "conversations": [{"from"', "prompts.json:2: not JSON (Expecting ':' delimiter, column"),
        (b'[{"id":\n "caf\xe9"}]', "prompts.json:2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
        (b'{"schema": "prompt/1", "id": "caf\xe9"}', "prompts.json:1: not UTF-8 (byte 0xe9)"),
        (b'{"schema": "prompt/1", "id": "91ab', "prompts.json:1: not JSON (Unterminated string"),
        (b'{"question": "Is there a 7?", "image": "a.png"}', 'or LLaVA\'s conversation JSON (id, image, conversations'),
        (b'{"schema": "completion/1"}', "this line has schema 'completion/1'; is it the right file?"),
        (b'{"schema": "prompt/1", "turns": [], "meta": {"x": NaN}}', "NaN is not JSON"),
        (b'"Is there a 7?"', "expected a JSON object, got str; expected JSONL of prompt records"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)  # fmt: skip
def test_files_that_hold_no_prompts(tmp_path, content, message):
    (fault,) = faults(tmp_path, content)
    assert message in fault


def test_a_missing_file_and_a_missing_root_are_named(tmp_path):
    with pytest.raises(UserError, match=r"prompts.file: .*gone.json cannot be read \(No such file or directory\)"):
        load_prompts(Prompts(file=str(tmp_path / "gone.json")))
    (tmp_path / "p.json").write_text(json.dumps([llava("p", "a.png", "<image>\nWhat?")]))
    with pytest.raises(UserError, match=r"prompts.image_root: .*nowhere is not a folder"):
        load_prompts(Prompts(file=str(tmp_path / "p.json"), image_root=str(tmp_path / "nowhere")))


def test_all_faults_are_told_at_once(tmp_path):
    png(tmp_path / "a.png")
    rows = [
        llava("1", "a.png", "<image>\nWhat?"),
        llava("2", "gone.png", "<image>\nWhat?"),
        llava("3", "a.png", "What?"),
        llava("1", "a.png", "<image>\nSomething else?"),
        llava("5", "../b.png", "<image>\nWhat?"),
    ]
    assert [fault.split(": ")[0] for fault in faults(tmp_path, rows)] == [f"prompts.json row {i}" for i in (2, 3, 4, 5)]


# --------------------------------------------------------------------------------------------- skipping and counting


def test_skip_turns_bad_rows_into_failures(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(corrupt_png())
    lines = [
        json.dumps(llava("1", "a.png", "<image>\nWhat?")),
        json.dumps(llava("2", "gone.png", "<image>\nWhat?")),
        '{"id": "3", "conv',
        json.dumps(llava("4", "b.png", "<image>\nWhat?")),
        json.dumps(llava("5", "a.png", "What?")),
    ]
    loaded = load(tmp_path, "\n".join(lines), invalid="skip")
    assert [p.source_id for p in loaded.prompts] == ["1"]
    assert [(f.record_id, f.reason) for f in loaded.failures] == [
        ("2", Reason.IMAGE_MISSING),
        ("prompts.json:3", Reason.INVALID_INPUT),
        ("4", Reason.IMAGE_UNREADABLE),
        ("5", Reason.INVALID_INPUT),
    ]
    # failures are an output: they read the same wherever the files lie
    assert not any(str(tmp_path) in f.detail for f in loaded.failures)
    assert {f.stage for f in loaded.failures} == {"prompts"}


def test_skipping_every_row_is_an_error(tmp_path):
    (summary, fault) = faults(tmp_path, [llava("1", "gone.png", "<image>\nWhat?")], invalid="skip")
    assert summary == "prompts.json: no usable prompt in it" and "gone.png" in fault


def test_rows_with_the_same_content_become_one(tmp_path):
    png(tmp_path / "a.png"), png(tmp_path / "copy.png")
    rows = [
        llava("1", "a.png", "<image>\nWhat?"),
        llava("1", "a.png", "<image>\nWhat?"),  # the same row again
        llava("2", "copy.png", "<image>\nWhat?"),  # the same image under another name, and another id
        llava("3", "a.png", "<image>\nWhere?"),
    ]
    loaded = load(tmp_path, rows)
    assert [p.source_id for p in loaded.prompts] == ["1", "3"]
    assert loaded.duplicates == 2


def test_one_id_with_two_contents_is_an_error(tmp_path):
    (fault,) = faults(tmp_path, [llava("cat", None, "What?"), llava("cat", None, "Where?")])
    assert fault == (
        "prompts.json row 2: id 'cat' is already that of another prompt (prompts.json row 1); "
        "give every prompt its own id"
    )


def test_limit_takes_the_first_rows_and_looks_no_further(tmp_path):
    rows = [llava(str(i), None, f"What is {i}?") for i in range(5)] + [{"bad": "row"}]
    assert [p.source_id for p in load(tmp_path, rows, limit=2).prompts] == ["0", "1"]
    with pytest.raises(UserError, match="limit: 0 leaves no prompt"):
        load(tmp_path, rows, limit=0)


def test_a_record_whose_image_was_never_opened_is_told_so(tmp_path):
    png(tmp_path / "a.png")
    turn = Turn(role="user", text="<image>\nWhat?", images=(Image(path="a.png", sha256="path:a.png"),))
    (fault,) = faults(tmp_path, dump_line(Prompt.of((turn,))))
    assert "was never opened" in fault and "--image-root" in fault
