"""Every kind of image file has one answer: the table in `align/formats/images.py`, row by row, on files by Pillow."""

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from annotators import Listed, answers, run_work
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms, PngImagePlugin
from PIL.Image import Transpose

from align.formats.images import check_bytes, check_images, inside, same_bytes
from align.formats.store import ImageStore
from align.prompts import load_prompts
from align.report.cards import thumbnail
from align.settings import Annotate, Prompts
from annotate.errors import RecordError
from annotate.jsonl import write_records
from annotate.pixels import UnreadableImage, rgb, to_send
from annotate.records import Image, Prompt, Reason, Turn
from annotate.run import AnnotateWork

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
LIMIT = 50_000_000


def picture(*rows: list, mode: str = "RGB") -> Pillow.Image:
    """An image from its pixels, row by row."""
    made = Pillow.new(mode, (len(rows[0]), len(rows)))
    made.putdata([pixel for row in rows for pixel in row])
    return made


def file(image: Pillow.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def seen(data: bytes) -> list[list[tuple[int, int, int]]]:
    """The pixels that models see in a file, which is also found to be good."""
    assert check_bytes(data, max_pixels=LIMIT).fault == ""
    image = rgb(io.BytesIO(data))
    assert image.mode == "RGB"
    return [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]


def kind(data: bytes) -> str | None:
    with Pillow.open(io.BytesIO(data)) as image:
        return image.format


def refusal(data: bytes, max_pixels: int = LIMIT) -> str:
    checked = check_bytes(data, max_pixels=max_pixels)
    assert checked.sha256 == "" and checked.reason is Reason.IMAGE_UNREADABLE
    return checked.fault


SCENE = picture([RED, GREEN, BLUE], [WHITE, BLACK, RED])
ROWS = [[RED, GREEN, BLUE], [WHITE, BLACK, RED]]
PHOTO = Pillow.radial_gradient("L").resize((64, 48)).convert("RGB")


# ------------------------------------------------------------------------------------------- what is seen and sent


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_plain_image_is_its_own_pixels_and_its_own_bytes(form, options):
    data = file(SCENE, form, **options)
    assert seen(data) == ROWS
    assert to_send(data) is data


def test_a_plain_jpeg_is_what_pillow_decodes_to_the_bit():
    data = file(PHOTO, "JPEG", quality=80)
    with Pillow.open(io.BytesIO(data)) as image:
        assert rgb(io.BytesIO(data)).tobytes() == image.convert("RGB").tobytes()
    assert to_send(data) is data


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM", "GIF"])
def test_what_services_do_not_take_is_sent_as_png_of_the_same_pixels(form):
    data = file(SCENE, form)
    assert seen(data) == ROWS
    assert kind(to_send(data)) == "PNG" and seen(to_send(data)) == ROWS


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_grey_is_seen_as_grey(form):
    data = file(Pillow.new("L", (8, 8), 100), form)
    assert {pixel for row in seen(data) for pixel in row} == {(100, 100, 100)}
    assert to_send(data) is data


def test_black_and_white_and_palettes():
    two = file(picture([0, 255], mode="1"), "PNG")
    assert seen(two) == [[BLACK, WHITE]]
    palette = file(SCENE.quantize(5), "PNG")
    assert kind(palette) == "PNG" and seen(palette) == ROWS
    assert to_send(two) is two and to_send(palette) is palette


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})])
def test_alpha_is_laid_over_white(form, options):
    glass = picture([(*RED, 255), (0, 0, 0, 51), (*RED, 0)], mode="RGBA")
    data = file(glass, form, **options)
    # opaque: its colour; a fifth of black: 255 * 0.8; clear: white, whatever colour lies hidden under it
    assert seen(data) == [[RED, (204, 204, 204), WHITE]]
    assert kind(to_send(data)) == "PNG" and seen(to_send(data)) == seen(data)


def test_an_alpha_channel_that_is_opaque_everywhere_changes_nothing():
    data = file(SCENE.convert("RGBA"), "PNG")
    assert seen(data) == ROWS


def test_grey_with_alpha_and_transparent_palettes_and_colours():
    assert seen(file(picture([(0, 255), (0, 0)], mode="LA"), "PNG")) == [[BLACK, WHITE]]
    palette = picture([RED, GREEN]).quantize(2)
    red = palette.getpixel((0, 0))
    assert seen(file(palette, "PNG", transparency=red)) == [[WHITE, GREEN]]
    assert seen(file(palette, "GIF", transparency=red)) == [[WHITE, GREEN]]
    assert seen(file(palette, "PNG", transparency=bytes([255 - 51 * (i != red) for i in range(2)]))) == [
        [RED, (51, 153, 51)]  # four fifths of (0, 128, 0), one of white
    ]
    assert seen(file(SCENE, "PNG", transparency=BLUE)) == [[RED, GREEN, WHITE], [WHITE, BLACK, RED]]


TURNED = {  # EXIF orientation -> how a camera has stored the scene
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,  # shown after a turn clockwise by 90 degrees; Pillow's turns are counter-clockwise
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_exif_rotation_is_applied(form, options, orientation):
    how = TURNED[orientation]
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = file(SCENE if how is None else SCENE.transpose(how), form, exif=exif, **options)
    assert seen(data) == ROWS
    assert seen(to_send(data)) == ROWS
    assert (to_send(data) is data) == (orientation == 1 and form != "TIFF")


def test_a_turned_photograph_is_sent_upright_as_jpeg():
    exif = Pillow.Exif()
    exif[0x0112] = 6
    data = file(PHOTO.transpose(Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    assert rgb(io.BytesIO(data)).size == PHOTO.size == (64, 48)
    sent = to_send(data)
    assert kind(sent) == "JPEG" and to_send(sent) is sent
    ours, theirs = rgb(io.BytesIO(data)).tobytes(), rgb(io.BytesIO(sent)).tobytes()
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 4


def test_rotation_by_xmp_and_damaged_exif():
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>')
    turned = file(SCENE.transpose(Transpose.ROTATE_180), "PNG", pnginfo=notes)
    assert seen(turned) == ROWS and to_send(turned) is not turned
    for exif in (b"Exif\0\0", b"Exif\0\0no TIFF at all", b"Exif\0\0II*\0\xff\xff\xff\x7f"):
        assert seen(file(SCENE, "PNG", exif=exif)) == ROWS  # nothing is turned
        assert len(seen(file(PHOTO, "JPEG", exif=exif))) == 48


def test_cmyk_becomes_rgb():
    ink = picture([(0, 255, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0)], mode="CMYK")
    data = file(ink, "TIFF")
    assert seen(data) == [[RED, BLACK, WHITE]]
    assert kind(to_send(data)) == "PNG"
    photo = file(Pillow.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    ((r, g, b), *_), *_ = seen(photo)
    assert r > 250 and g < 5 and b < 5
    sent = to_send(photo)
    with Pillow.open(io.BytesIO(sent)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """A PNG chunk by chunk; `colour` 0 grey, 2 RGB."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def test_sixteen_bits_are_seen_by_their_upper_eight():
    levels = [(0, 0, 0), (127, 127, 127), (254, 254, 254), (255, 255, 255)]
    sixteen = struct.pack(">4H", 0x00FF, 0x7FFF, 0xFEFF, 0xFFFF)
    grey = png(4, 1, 16, 0, b"\0" + sixteen)
    assert seen(grey) == [levels]
    assert kind(to_send(grey)) == "PNG" and seen(to_send(grey)) == [levels]
    assert seen(b"P5\n4 1\n65535\n" + sixteen) == [levels]
    swapped = struct.pack("<4H", 0x00FF, 0x7FFF, 0xFEFF, 0xFFFF)
    assert seen(file(Pillow.frombytes("I;16", (4, 1), swapped), "TIFF")) == [levels]
    assert seen(file(Pillow.frombytes("I;16B", (4, 1), sixteen), "TIFF")) == [levels]
    colour = png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 0xFF12, 0x8034, 0x0056))
    assert seen(colour) == [[(255, 128, 0)]]
    assert to_send(colour) is colour


def test_sixteen_bits_that_are_turned():
    exif = Pillow.Exif()
    exif[0x0112] = 3
    data = file(Pillow.frombytes("I;16", (2, 1), struct.pack("<2H", 0x1000, 0xF000)), "PNG", exif=exif)
    assert seen(data) == [[(240, 240, 240), (16, 16, 16)]]


def test_colour_profiles_are_not_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = file(SCENE, "PNG", icc_profile=profile)
    assert seen(data) == ROWS and to_send(data) is data


@pytest.mark.parametrize(
    ("form", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})], ids=lambda x: str(x)
)
def test_of_several_frames_the_first_is_seen(form, options):
    second = Pillow.new("RGB", SCENE.size, "blue")
    data = file(SCENE, form, save_all=True, append_images=[second, SCENE], **options)
    with Pillow.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert seen(data) == ROWS
    assert kind(to_send(data)) == "PNG" and seen(to_send(data)) == ROWS


def test_a_jpeg_with_a_second_picture_behind_it_is_its_first():
    data = file(PHOTO, "MPO", save_all=True, append_images=[Pillow.new("RGB", (64, 48), "red")])
    assert kind(data) == "MPO"
    assert seen(data)[24][32] != RED
    assert to_send(data) is data
    assert check_bytes(data, max_pixels=LIMIT).ending == "jpg"


def test_bytes_after_the_end_are_not_looked_at():
    for data in (file(SCENE, "PNG") + b"<script>", file(PHOTO, "JPEG") + bytes(1000)):
        assert len(seen(data)) in (2, 48)
        assert to_send(data) is data


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4096,
        b"<html>404 not found</html>",
        b'{"error": "rate limited"}',
        b"%PDF-1.7\n1 0 obj",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    ],
    ids=["empty", "zeros", "html", "json", "pdf", "eps", "svg", "heic", "lfs pointer"],
)
def test_what_is_no_image(data):
    assert refusal(data).startswith("is not an image (PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM)")
    with pytest.raises(UnreadableImage, match="is not an image"):
        rgb(io.BytesIO(data))
    assert to_send(data) is data  # the annotator's backend refuses it, by its first bytes


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_what_is_cut_off_is_refused_and_nothing_is_guessed(form):
    data = file(Pillow.effect_noise((64, 64), 50).convert("RGB"), form)
    for length in (len(data) // 2, len(data) - 60):
        assert refusal(data[:length]).startswith(("is corrupt", "is not an image"))
        with pytest.raises(UnreadableImage):
            rgb(io.BytesIO(data[:length]))


def test_flipped_bits_and_wrong_checksums():
    data = bytearray(file(Pillow.linear_gradient("L"), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert refusal(bytes(data)).startswith("is corrupt")
    data = bytearray(file(Pillow.linear_gradient("L"), "PNG"))
    data[-13] ^= 0xFF  # the checksum of the pixels, which themselves decode
    assert refusal(bytes(data)).startswith("is corrupt")


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Pillow.new("I", (4, 4), 70_000), "'I'"),
        (Pillow.new("F", (4, 4), 0.5), "'F'"),
        (Pillow.new("LAB", (4, 4)), "'LAB'"),
    ],
)
def test_pixels_without_a_defined_black_and_white(image, mode):
    fault = refusal(file(image, "TIFF"))
    assert fault.startswith(f"has pixels of kind {mode}, whose black and white are not defined; save it with 8 bits")


def test_decompression_bombs_are_told_by_their_header():
    def bomb(width: int, height: int) -> bytes:
        return png(width, height, 8, 2, b"")  # 70 bytes that promise any number of pixels

    assert refusal(bomb(10, 10), max_pixels=99).startswith("is 10 x 10 pixels, more than prompts.max_image_pixels (99)")
    assert "is 12000 x 10000 pixels, more than" in refusal(bomb(12_000, 10_000))
    assert "is it a decompression bomb?" in refusal(bomb(60_000, 60_000))
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        rgb(io.BytesIO(bomb(60_000, 60_000)))


def test_strips_would_be_widened_beyond_all_memory():
    assert seen(file(Pillow.new("RGB", (2, 400)), "PNG"))
    fault = refusal(file(Pillow.new("RGB", (401, 2)), "PNG"))
    assert fault == "is 401 x 2 pixels, a strip longer than 200 times its width; cut it into pieces"


GOOD = [
    file(PHOTO, "PNG"),
    file(SCENE.convert("RGBA"), "PNG"),
    file(SCENE.quantize(5), "PNG", transparency=0),
    file(PHOTO, "JPEG"),
    file(PHOTO.convert("CMYK"), "JPEG"),
    file(PHOTO, "WEBP"),
    file(PHOTO, "TIFF"),
    file(Pillow.new("I;16", (5, 5)), "TIFF"),
    file(PHOTO, "BMP"),
    file(PHOTO, "PPM"),
    file(SCENE, "GIF", save_all=True, append_images=[PHOTO.resize(SCENE.size)]),
    file(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(GOOD),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 10**6),
)
def test_what_passes_the_check_passes_later_and_nothing_else_is_ever_raised(data, changes, length):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    damaged = bytes(damaged[: length % (2 * len(damaged)) + 1])
    good = not check_bytes(damaged, max_pixels=100_000).fault
    try:
        picture = rgb(io.BytesIO(damaged), max_pixels=100_000)
        sent = to_send(damaged)
    except UnreadableImage:
        assert not good
    else:
        assert not good or rgb(io.BytesIO(sent)).size == picture.size


# ------------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("path", "message", "reason"),
    [
        ("gone.png", "no such file below prompts.image_root", Reason.IMAGE_MISSING),
        ("folder", "it is a folder", Reason.IMAGE_MISSING),
        ("", "it is a folder", Reason.IMAGE_MISSING),
        ("pipe", "no such file", Reason.IMAGE_MISSING),
        ("folder\\a.png", "write its folders with / instead of \\", Reason.IMAGE_MISSING),
        ("/etc/hostname", "is absolute", Reason.INVALID_INPUT),
        ("C:\\cat.png", "is absolute", Reason.INVALID_INPUT),
        ("c:cat.png", "is absolute", Reason.INVALID_INPUT),
        ("\\\\server\\share\\cat.png", "is absolute", Reason.INVALID_INPUT),
        ("\\cat.png", "is absolute", Reason.INVALID_INPUT),
        ("../outside.png", "leaves its root by '..'", Reason.INVALID_INPUT),
        ("..\\outside.png", "leaves its root by '..'", Reason.INVALID_INPUT),
        ("folder/../a.png", "leaves its root by '..'", Reason.INVALID_INPUT),
        ("out.png", "is a link that leaves its root", Reason.INVALID_INPUT),
        ("out/outside.png", "is a link that leaves its root", Reason.INVALID_INPUT),
        ("https://example.org/a.png", "is an address; nothing is fetched", Reason.INVALID_INPUT),
        ("file:///etc/passwd", "is an address", Reason.INVALID_INPUT),
        ("data:image/png;base64,iVBORw0KGgo=", "is an address", Reason.INVALID_INPUT),
        ("a\0b.png", "cannot be read", Reason.IMAGE_UNREADABLE),
        ("loop.png", "cannot be read", Reason.IMAGE_UNREADABLE),
        ("x" * 300, "cannot be read (File name too long)", Reason.IMAGE_UNREADABLE),
    ],
)
def test_paths_that_are_missing_or_leave_their_root(tmp_path, path, message, reason):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    SCENE.save(root / "folder" / "a.png")
    SCENE.save(tmp_path / "outside.png")
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (root / "out").symlink_to(tmp_path)
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe")
    checked = check_images(root, [path], max_pixels=LIMIT)[path]
    assert message in checked.fault and checked.reason is reason and checked.sha256 == ""
    if reason is Reason.INVALID_INPUT:
        with pytest.raises(RecordError, match="image"):
            inside(root, path)


def test_links_that_stay_below_the_root_are_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    SCENE.save(tmp_path / "folder" / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "folder" / "a.png")
    checked = check_images(tmp_path, ["b.png", "folder/a.png", "./folder//a.png"], max_pixels=LIMIT)
    assert {image.sha256 for image in checked.values()} == {sha256_of((tmp_path / "b.png").read_bytes())}


def test_a_store_embeds_no_file_from_outside_its_root(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    root.mkdir()
    store = ImageStore(root=root)
    with pytest.raises(RecordError, match=r"leaves its root by '\.\.'"):
        store.bytes_of(Image(path="../secret", sha256="path:../secret"))
    with pytest.raises(RecordError, match="is absolute"):
        store.bytes_of(Image(path=str(tmp_path / "secret"), sha256="path:x"))


def test_embedded_images_are_checked_like_files(tmp_path):
    store = ImageStore(root=None, folder=tmp_path)
    whole = file(PHOTO, "JPEG")
    kept = store.embedded(whole)
    assert (tmp_path / kept.path).read_bytes() == whole and kept.path == f"{sha256_of(whole)}.jpg"
    with pytest.raises(RecordError, match=r"embedded image 'row 1': is corrupt \(OSError: image file is truncated"):
        store.embedded(whole[:-200], "row 1")
    assert len(list(tmp_path.iterdir())) == 1


# --------------------------------------------------------------------------------------- one image, one answer for all


def test_the_same_bytes_under_two_names_are_one_image(tmp_path):
    for name in ("a.png", "b.png", "z.png"):
        (SCENE if name != "z.png" else PHOTO).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(file(SCENE, "PNG", compress_level=0))  # the same picture in other bytes
    names = ["a.png", "b.png", "c.png", "gone.png", "z.png"]
    assert same_bytes(check_images(tmp_path, names, max_pixels=LIMIT)) == [("a.png", "b.png")]


def test_one_question_about_the_same_bytes_is_one_prompt(tmp_path):
    prompts = []
    for name in ("a.png", "b.png"):
        SCENE.save(tmp_path / name)
        image = Image(path=name, sha256=sha256_of((tmp_path / name).read_bytes()))
        prompts.append(Prompt.of((Turn(role="user", text="<image>\nWhat?", images=(image,)),)))
    write_records(tmp_path / "prompts.jsonl", prompts)
    found = load_prompts(Prompts(file=str(tmp_path / "prompts.jsonl"), image_root=str(tmp_path)))
    assert (len(found.prompts), found.duplicates) == (1, 1)


def turned_glass(path: Path) -> bytes:
    """A sticker: red left, green middle, the right clear; stored lying on its side."""
    image = picture([(*RED, 255), (*GREEN, 255), (*BLUE, 0)], mode="RGBA").resize((96, 32), Pillow.Resampling.NEAREST)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    image.transpose(Transpose.ROTATE_90).save(path, exif=exif)
    return path.read_bytes()


def shown_glass() -> Pillow.Image:
    return picture([RED, GREEN, WHITE]).resize((96, 32), Pillow.Resampling.NEAREST)


def test_the_annotator_is_sent_what_the_models_see(tmp_path):
    data = turned_glass(tmp_path / "a.png")
    image = Image(path="a.png", sha256=sha256_of(data))
    prompt = Prompt.of((Turn(role="user", text="<image>\nWhich colours?", images=(image,)),))
    listener = Listed()
    work = AnnotateWork(
        prompts=[prompt],
        completions=answers(prompt, "Red.", "Blue."),
        settings=Annotate(),
        seed=0,
        read_image=lambda image: (tmp_path / image.path).read_bytes(),
        annotator=listener,
    )
    run_work(work, tmp_path)
    (sent,) = listener.requests[0].images
    assert kind(sent) == "PNG"
    assert rgb(io.BytesIO(sent)).tobytes() == shown_glass().tobytes()


def test_an_image_that_cannot_be_redrawn_fails_its_row_alone(tmp_path):
    noise = Pillow.effect_noise((64, 64), 50)
    cut = file(noise, "GIF")[:-600]
    good = file(SCENE, "PNG")
    by_path = {"cut.gif": cut, "good.png": good}
    prompts = [
        Prompt.of((Turn(role="user", text="<image>\nWhat?", images=(Image(path=path, sha256=sha256_of(data)),)),))
        for path, data in by_path.items()
    ]
    work = AnnotateWork(
        prompts=prompts,
        completions=[c for p in prompts for c in answers(p, "Red.", "Blue.")],
        settings=Annotate(),
        seed=0,
        read_image=lambda image: by_path[image.path],
        annotator=Listed(),
    )
    _, compiled = run_work(work, tmp_path)
    assert [record.prompt.id for record in compiled.files["annotated.jsonl"]] == [prompts[1].id]
    (failure,) = compiled.files["failures.jsonl"]
    assert failure.reason is Reason.IMAGE_UNREADABLE and "an image is corrupt" in failure.detail


def test_models_are_given_the_same_pixels_as_of_the_image_drawn_plainly(tmp_path):
    from tiny_llava import save_tiny_llava

    from align.models.encode import Encoder
    from align.models.load import load_vlm

    turned_glass(tmp_path / "a.png")
    shown_glass().save(tmp_path / "plain.png")
    encoder = load_vlm(save_tiny_llava(tmp_path / "vlm")).encoder
    assert isinstance(encoder, Encoder)
    image = Image(path="a.png", sha256="0" * 64)
    turn = Turn(role="user", text="<image>\nWhich colours?", images=(image,))
    one, other = (encoder.prompt([turn], [tmp_path / name]) for name in ("a.png", "plain.png"))
    assert one.ids == other.ids
    assert (one.images["pixel_values"] == other.images["pixel_values"]).all()


def test_the_report_shows_it_so_too(tmp_path):
    turned_glass(tmp_path / "a.png")
    shown_glass().save(tmp_path / "plain.png")
    assert thumbnail(tmp_path / "a.png", LIMIT) == thumbnail(tmp_path / "plain.png", LIMIT) != ""
    assert thumbnail(tmp_path / "a.png", 100) == thumbnail(tmp_path / "gone.png", LIMIT) == ""
