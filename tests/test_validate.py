"""`align validate`: every fault of a file with where, which field and what to do; and what the file holds."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import align.cli
from align.commands.validate import arguments, run
from align.console import Console
from align.formats import format_named
from align.formats.containers import read_rows
from align.formats.reading import read_file
from align.formats.store import ImageStore
from align.formats.writing import write_file
from annotate.errors import UserError
from annotate.jsonl import write_records
from annotate.records import Annotated, PreferencePair, Prompt, Turn, replace

FIXTURES = Path(__file__).parent / "formats"


def validate(file: Path, *words: object, machine: bool = False) -> int:
    parser = argparse.ArgumentParser()
    arguments(parser)
    return run(parser.parse_args([str(file), *map(str, words)]), Console(machine=machine))


def faults_of(file: Path, *words: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        validate(file, *words)
    return list(caught.value.faults)


def rows_of(name: str) -> list[Any]:
    return [placed.value for placed in read_rows(FIXTURES / name)]


def written(folder: Path, name: str, rows: list[Any]) -> Path:
    file = folder / name
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text(json.dumps(rows) if file.suffix == ".json" else lines, encoding="utf-8")
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The pictures, and two that are none."""
    shutil.copytree(FIXTURES / "images", tmp_path / "images")
    whole = (tmp_path / "images/kite.png").read_bytes()
    (tmp_path / "images/cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "images/page.png").write_bytes(b"<html>404</html>")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("trl.jsonl", "trl.jsonl: 4 pairs (trl); faults: 0"),
        ("trl.parquet", "trl.parquet: 4 pairs (trl); faults: 0"),
        ("llama_factory.json", "llama_factory.json: 3 pairs (llama_factory); faults: 0"),
        ("llama_factory_sft.json", "llama_factory_sft.json: 2 examples (llama_factory); faults: 0"),
        ("ms_swift.jsonl", "ms_swift.jsonl: 4 pairs, 1 examples (ms_swift); faults: 0"),
        ("helpsteer.jsonl", "helpsteer.jsonl: 3 annotated (helpsteer); faults: 0"),
        ("ultrafeedback.jsonl", "ultrafeedback.jsonl: 1 annotated (ultrafeedback); faults: 0"),
        ("vlfeedback.jsonl", "vlfeedback.jsonl: 1 annotated (vlfeedback); faults: 0"),
    ],
)
def test_sound_files(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(FIXTURES / name, "--image-root", FIXTURES) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(says)


def test_the_summary_counts_images_repeats_and_texts(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(images / "images/kite.png", images / "images/again.png")
    rows = rows_of("trl.jsonl")
    other = {**copy.deepcopy(rows[0]), "images": ["images/again.png"]}
    file = written(images, "pairs.jsonl", [*rows, other, rows[3]])
    assert validate(file, "--image-root", images) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: 6 pairs (trl); faults: 0",
        "  images      3 looked at, 2 different",
        "  same bytes  images/again.png = images/kite.png",
        "  text only   2 of 6",
        "  repeated    2 of 6",  # the same bytes are the same image, whatever it is called
    ]
    validate(file, "--image-root", images, machine=True)
    assert json.loads(capsys.readouterr().out) == {
        "event": "result",
        "kind": "trl",
        "records": 6,
        "kinds": {"pairs": 6},
        "faults": 0,
        "text_only": 2,
        "repeated": 2,
        "empty_completions": 0,
        "images": 3,
        "different_images": 2,
        "same_bytes": [["images/again.png", "images/kite.png"]],
        "longest": None,
        "too_long": None,
        "lengths_are": None,
    }


def test_empty_completions_are_counted_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The sampler may say nothing; the builders take no such completion."""
    validate(FIXTURES / "ultrafeedback.jsonl")
    assert "  empty       1 completions say nothing; no builder takes them" in capsys.readouterr().out.splitlines()


# --------------------------------------------------------------------------------------------------- malformed inputs

LF = "llama_factory.json"
BAD_ROWS: list[tuple[str, int, dict[str, Any], str]] = [
    # an image that is not there, is cut in half, is something else, leaves its folder
    (LF, 0, {"images": ["images/gone.png"]}, "images[0]: image 'images/gone.png': no such file below --image-root"),
    (LF, 0, {"images": ["images/cut.png"]}, "images[0]: image 'images/cut.png': "),
    (LF, 0, {"images": ["images/page.png"]}, "images[0]: image 'images/page.png': "),
    (LF, 0, {"images": ["../kite.png"]}, "images[0]: image '../kite.png': leaves its root by '..'; set --image-root"),
    # placeholders and images
    (LF, 0, {"images": []}, "conversations: 1 <image> placeholder(s) but 0 image(s): write one <image> per image"),
    (LF, 2, {"images": ["images/kite.png"]}, "conversations: 0 <image> placeholder(s) but 1 image(s)"),
    # answers
    (LF, 0, {"chosen": {"from": "gpt", "value": ""}}, "chosen.value: empty answer; write one, or leave the row out"),
    (LF, 0, {"rejected": {"from": "gpt", "value": "<image>"}}, "rejected.value: the answer contains <image>"),
    (
        LF,
        0,
        {"rejected": {"from": "gpt", "value": "A red kite."}},
        "chosen and rejected are the same text; nothing is preferred: take the row out",
    ),
    # turns
    (
        LF,
        2,
        {"conversations": [{"from": "human", "value": "A?"}, {"from": "human", "value": "B?"}]},
        "conversations: turns must alternate user, assistant, ..., user; got user, user",
    ),
    # ranges
    ("helpsteer.jsonl", 0, {"verbosity": 5}, "verbosity: 5 is not a whole number from 0 to 4"),
    ("ultrafeedback.jsonl", 0, {"completions": []}, "completions: expected a list of objects"),
    ("ms_swift.jsonl", 0, {"rejected_response": " "}, "rejected_response: empty answer; write one"),
    ("trl.jsonl", 0, {"chosen": []}, "chosen: expected a list with at least one message"),
]


@pytest.mark.parametrize(("name", "number", "change", "says"), BAD_ROWS)
def test_each_bad_row_is_named(images: Path, name: str, number: int, change: dict[str, Any], says: str) -> None:
    rows = rows_of(name)
    rows[number] = {**rows[number], **change}
    file = written(images, name, rows)
    where = f"{file} row {number + 1}" if file.suffix == ".json" else f"{file}:{number + 1}"
    (fault,) = faults_of(file, "--image-root", images, "--form", Path(name).stem)
    assert fault.startswith(f"{where}: {says}")


def test_all_faults_are_found_and_twenty_shown(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = rows_of(LF)[0]
    file = written(images, "dpo.json", [{**row, "images": []}] * 30 + [row])
    with pytest.raises(UserError) as caught:
        validate(file, "--image-root", images)
    assert len(caught.value.faults) == 30
    shown = str(caught.value).splitlines()
    assert shown[0].startswith(f"{file} row 1: conversations: 1 <image>") and shown[-1] == "... and 10 more"
    assert capsys.readouterr().out.startswith(f"{file}: 1 pairs (llama_factory); faults: 30\n")


def test_a_line_that_is_no_json_is_one_fault(images: Path) -> None:
    file = written(images, "pairs.jsonl", rows_of("trl.jsonl"))
    with file.open("a") as stream:
        stream.write('{"prompt": [\n["a list"]\n')
    first, second = faults_of(file, "--image-root", images)
    assert first.startswith(f"{file}:5: not JSON (") and second == f"{file}:6: expected an object, got list"


def test_an_image_inside_a_row_is_opened(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = parquet.read_table(FIXTURES / "trl.parquet")
    rows = table.to_pylist()
    rows[0]["images"][0]["bytes"] = rows[0]["images"][0]["bytes"][:50]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), tmp_path / "pairs.parquet")
    (fault,) = faults_of(tmp_path / "pairs.parquet")
    assert fault.startswith(f"{tmp_path}/pairs.parquet row 1: embedded image 'kite.png': ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.parquet"]  # nothing is written by looking


def test_nobodys_keys_are_refused_with_the_formats_there_are(tmp_path: Path) -> None:
    file = written(tmp_path, "rows.jsonl", [{"foo": 1}])
    (fault,) = faults_of(file)
    assert fault.startswith(f"{file}: no format has the keys of its first row (foo); ") and "ms_swift" in fault
    with pytest.raises(UserError, match="no format 'ms_swit'; did you mean 'ms_swift'"):
        validate(file, "--form", "ms_swit")
    with pytest.raises(UserError, match="--image-root: nowhere is not a folder"):
        validate(file, "--image-root", "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"prompt,chosen\nWhy?,So.\n", "its first row: not JSON (Expecting value"),
        ("a.py", b"import sys\n", "its first row: not JSON (Expecting value"),
        ("a.jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF", "its first row: not UTF-8 (byte 0xff at 1); save it as UTF-8"),
        ("a.jsonl", '{"prompt": "Où?"}\n'.encode("latin-1"), "its first row: not UTF-8 (byte 0xf9 at 14)"),
        ("funnel.json", b'{\n "total": {"annotated": 1},\n "of": [\n  "a"\n ]\n}\n', "is one JSON object over several"),
        ("a.json", b"[1, 2]", "its first row is int, not an object"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["validate", "pairs"])
def test_what_is_no_file_of_rows_is_told_for_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    words = [command, str(tmp_path / name), *([str(tmp_path / "out")] if command == "pairs" else [])]
    assert align.cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / name}: {says}")
    assert said.endswith("; expected rows: a JSON list of objects, JSON Lines, or parquet\n")


def test_only_formats_that_are_read_are_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        align.cli.main(["validate", "--help"])
    assert "nemo" not in capsys.readouterr().out
    (fault,) = faults_of(written(tmp_path, "rows.jsonl", [{"foo": 1}]))
    assert "say with --from which it is of those that are read: llava, " in fault and "nemo" not in fault


def test_without_a_root_it_is_asked_for(images: Path) -> None:
    row = {"image": "images/gone.png", "prompt": "What?", "chosen": "A.", "rejected": "B."}
    (fault,) = faults_of(written(images, "pairs.json", [row]))
    assert fault.endswith("image 'images/gone.png': no such file below the current folder (give --image-root)")
    asked = {"id": "1", "image": "images/gone.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}
    (fault,) = faults_of(written(images, "llava.json", [asked]))
    assert fault.endswith("no such file below the current folder (give --image-root)")


def test_faults_of_rows_that_are_grouped_come_in_the_order_of_lines(tmp_path: Path) -> None:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [{"prompt": f"{i}?", "response": "A.", **dict.fromkeys(names, 5 if i % 2 else 4)} for i in range(12)]
    told = faults_of(written(tmp_path, "rows.jsonl", rows))
    assert [int(fault.split(":")[1]) for fault in told] == [2, 4, 6, 8, 10, 12]


# --------------------------------------------------------------------------------------------------- truncation to come


def tokenizer(folder: Path) -> Path:
    """A tokenizer that takes every word, and every sign that is none, for one token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_rows_that_will_be_cut_are_faults_when_tokens_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # "What flies in the picture ?" 6 + "A plane , I guess ." 6 + one image 10 + 5 for each of two turns
    longest = 6 + 6 + 10 + 10
    file = written(tmp_path, "pairs.jsonl", rows_of("trl.jsonl")[:1])
    words = ["--image-root", FIXTURES, "--tokenizer", tokenizer(tmp_path), "--image-tokens", 10, "--max-length"]
    assert validate(file, *words, longest) == 0
    assert "  length      32 tokens at most, 0 rows above 32" in capsys.readouterr().out
    assert faults_of(file, *words, longest - 1) == [
        f"{file}:1: 32 tokens with its images, more than 31: it will be cut; shorten it, take it out, or train with "
        "a greater max_length"
    ]


def test_estimates_only_warn(capsys: pytest.CaptureFixture[str]) -> None:
    """26 + 17 characters are 11 tokens at most; 576 of one image, 1,152 of two, and 5 for each turn."""
    assert validate(FIXTURES / "trl.jsonl", "--image-root", FIXTURES, "--max-length", 600) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("  length      about 1,") and "2 rows above 600: estimated, 4 characters a token" in line
    validate(FIXTURES / "trl.jsonl", "--image-root", FIXTURES, "--max-length", 600, machine=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["too_long"], told["lengths_are"]) == (2, "estimated")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tokenizer", "x"], "--tokenizer: says how tokens are counted; give --max-length too"),
        (["--max-length", "9", "--tokenizer", "gone"], "--tokenizer: gone cannot be read"),
        (["--max-length", "0"], "--max-length and --image-tokens: expected numbers of tokens"),
    ],
)
def test_options_that_cannot_be(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        validate(FIXTURES / "trl.jsonl", *words)


# --------------------------------------------------------------------------------------------------------- own records


def own_pairs(folder: Path) -> tuple[Path, list[PreferencePair]]:
    store = ImageStore(root=FIXTURES)
    pairs = [r for r in read_file(FIXTURES / "trl.jsonl", images=store) if isinstance(r, PreferencePair)]
    write_records(folder / "preference.jsonl", pairs)
    return folder / "preference.jsonl", pairs


def test_own_pairs_with_their_images(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, pairs = own_pairs(images)
    assert validate(file) == 0
    assert capsys.readouterr().out.startswith(f"{file}: 4 pairs (mmalign); faults: 0\n")
    assert validate(file, "--image-root", images) == 0
    assert "  images      2 looked at, 2 different" in capsys.readouterr().out
    shutil.copy(images / "images/lamp.png", images / "images/kite.png")
    (images / "images/lamp.png").unlink()
    same = replace(pairs[3], rejected=pairs[3].chosen)
    write_records(file, [pairs[0], same, pairs[2]])
    was = pairs[0].prompt.images[0].sha256[:16]
    assert faults_of(file, "--image-root", images) == [
        f"{file}:1: image 'images/kite.png': is not the one of the record (sha256 {was}…); was it changed?",
        f"{file}:2: chosen and rejected are the same text; nothing is preferred: take the row out",
        f"{file}:3: image 'images/kite.png': is not the one of the record (sha256 {was}…); was it changed?",
        f"{file}:3: image 'images/lamp.png': no such file below --image-root",
    ]


def test_scores_are_held_against_the_rubric_that_is_named(tmp_path: Path) -> None:
    (record,) = read_file(FIXTURES / "ultrafeedback.jsonl")
    assert isinstance(record, Annotated)
    write_records(tmp_path / "annotated.jsonl", [record])
    assert validate(tmp_path / "annotated.jsonl", "--rubric", "ultrafeedback") == 0
    (fault,) = faults_of(tmp_path / "annotated.jsonl", "--rubric", "helpsteer")
    assert f"{tmp_path}/annotated.jsonl:1: " in fault and "rubric helpsteer scores" in fault


def test_prompts_and_llava_conversations_are_checked_as_a_recipe_does(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = Prompt.of((Turn(role="user", text="Why?"),))
    write_records(images / "prompts.jsonl", [prompt, prompt])
    assert validate(images / "prompts.jsonl") == 0
    assert capsys.readouterr().out == f"{images}/prompts.jsonl: 1 prompts, 1 duplicates\n"
    row = {"id": "1", "image": "images/gone.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}
    file = written(images, "llava.json", [row])
    (fault,) = faults_of(file, "--image-root", images)
    assert fault.endswith("image 'images/gone.png': no such file below --image-root")
    several = {**row, "images": ["images/kite.png"]}
    del several["image"]
    assert validate(written(images, "llava.json", [several]), "--image-root", images) == 0


def test_a_converted_file_is_sound(images: Path) -> None:
    """What we write passes what we check."""
    _, pairs = own_pairs(images)
    store = ImageStore(root=FIXTURES)
    for name, ending in (("trl", "parquet"), ("llama_factory", "json"), ("ms_swift", "jsonl"), ("trl_jsonl", "jsonl")):
        out = images / f"{name}-out.{ending}"
        write_file(pairs, out, format_named(name), images=store)
        assert validate(out, "--image-root", images) == 0


def test_the_command_ends_with_2(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = rows_of(LF)[0]
    file = written(images, "dpo.json", [{**row, "images": []}])
    assert align.cli.main(["validate", str(file), "--image-root", str(images)]) == 2
    assert capsys.readouterr().err.startswith(f"{file} row 1: conversations: 1 <image> placeholder(s) but 0 image(s)")
