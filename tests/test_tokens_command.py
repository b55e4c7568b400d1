"""`align tokens`: files of rows beside each other, and what it says of those it cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_llava import ask_about, save_image, save_tiny_language_model, save_tiny_llava
from tiny_parts import save_clip

from align.cli import main
from annotate.jsonl import write_records
from annotate.records import Prompt, Turn


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, 4 rows of text, and the mix folder of a quarter of images."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny_llava(folder / "model")
    text = [Prompt.of((Turn(role="user", text=f"Name {n} fruits."),), reference="Apple, pear.") for n in range(4)]
    image = save_image(folder, "7.png", seed=7)
    seen = Prompt.of(ask_about(image, text="Name 3 fruits.").turns, reference="Apple, pear.")
    write_records(folder / "text.jsonl", text)
    (folder / "mix").mkdir()
    write_records(folder / "mix/examples.jsonl", [*text[:3], seen])
    return folder


def tokens(world: Path, *arguments: str) -> int:
    return main(["tokens", *arguments, "--model", str(world / "model"), "--image-root", str(world)])


def test_files_stand_beside_each_other_as_in_the_papers_table(
    world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, mix = str(world / "text.jsonl"), str(world / "mix")
    assert tokens(world, mix, text, "--json", "--out", str(tmp_path / "out")) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((tmp_path / "out/tokens.json").read_text())
    assert {key: told[key] for key in written} == written
    mixed, alone = written["files"][mix], written["files"][text]
    # "Name 3 fruits." becomes "<image>\nName 3 fruits.": nine tokens of the image, and three around it
    assert mixed["lm"] - alone["lm"] == 12
    assert (mixed["image"], mixed["trained"]) == (9, alone["trained"])
    assert mixed["increase_percent"] == round(100 * 12 / alone["lm"], 2)
    assert (alone["increase_percent"], alone["times"]) == (0.0, 1.0)
    assert mixed["flops"]["total"] == sum(n for part, n in mixed["flops"].items() if part != "total")
    assert mixed["flops"]["tower"] > 0 == alone["flops"]["tower"]
    table = (tmp_path / "out/tokens.txt").read_text().splitlines()
    assert table[1].split()[1:4] == [str(mixed["lm"]), f"+{mixed['increase_percent']:.2f}%", f"{mixed['times']:.2f}x"]

    assert tokens(world, text, "--language", "frozen", "--json") == 0
    frozen = json.loads(capsys.readouterr().out.splitlines()[-1])["files"][text]["flops"]
    assert frozen["language"] == alone["flops"]["language"] * 2 // 3


def test_rows_that_cannot_be_trained_on_are_told(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tokens(world, str(world / "mix"), "--max-length", "20") == 0
    said = capsys.readouterr().out
    assert "1 row(s) left out, too_long: " in said and "the limit is 20" in said


def test_a_file_most_of_whose_rows_are_out_is_starred(
    world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, gone = world / "text.jsonl", world / "gone.jsonl"
    image = save_image(tmp_path, "elsewhere.png", seed=1)
    missing = [
        Prompt.of(ask_about(image, text=f"Name {n} fruits.").turns, reference="Apple, pear.").to_line()
        for n in range(5)
    ]
    gone.write_bytes(text.read_bytes() + b"".join(missing))
    assert tokens(world, str(gone), str(text)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{gone} *  ") and lines[2].startswith(f"{text}  ")
    assert lines[3] == "* more than half of its rows are left out: these numbers are not the file's"
    assert "5 row(s) left out, image_unreadable" in lines[4]
    gone.write_bytes(text.read_bytes() + b"".join(missing[:4]))  # half of them
    assert tokens(world, str(gone)) == 0
    assert "*" not in capsys.readouterr().out


def test_the_model_is_a_vlm_or_the_stage_that_left_one(
    world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "instruct").mkdir()
    (tmp_path / "instruct/model").symlink_to(world / "model")
    text = str(world / "text.jsonl")
    assert main(["tokens", text, "--model", str(tmp_path / "instruct")]) == 0
    save_tiny_language_model(tmp_path / "lm")
    save_clip(tmp_path / "clip")
    for name in ("lm", "clip"):
        capsys.readouterr()
        assert main(["tokens", text, "--model", str(tmp_path / name)]) == 2
        assert f"{name}: needed is a vision-language model" in capsys.readouterr().err


def test_what_cannot_be_read_is_refused_and_nothing_written(
    world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(*arguments: str) -> str:
        assert tokens(world, *arguments, "--out", str(tmp_path / "out")) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "no.jsonl: no such file" in refused("no.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"schema":"metric/1"}\n')
    assert "bad.jsonl:1: schema 'metric/1' is none of" in refused(
        str(world / "text.jsonl"), str(tmp_path / "bad.jsonl")
    )
    assert "no row that can be trained on; 4 too_long" in refused(str(world / "text.jsonl"), "--max-length", "3")
    assert "--max-length: 0" in refused(str(world / "text.jsonl"), "--max-length", "0")
    assert main(["tokens", str(world / "text.jsonl"), "--model", str(world / "mix")]) == 2
    assert "no config.json" in capsys.readouterr().err
