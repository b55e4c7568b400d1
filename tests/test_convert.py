"""`align convert`: from each format of pairs to each other, the prompts, images and answers stay what they were."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image as Pillow

import align.cli
from align.formats import formats
from align.formats.containers import read_rows, write_rows
from align.formats.reading import read_file
from align.formats.store import ImageStore
from align.formats.writing import write_file
from annotate.errors import UserError
from annotate.jsonl import read_records, write_records
from annotate.records import Annotated, Completion, Failure, Image, PreferencePair, Prompt, Turn

PAIR_FORMATS = sorted(f.name for f in formats().values() if f.kinds[0] == "pairs" and f.read and f.write)


def photo(folder: Path, name: str, colour: str) -> None:
    folder.mkdir(exist_ok=True)
    Pillow.new("RGB", (8, 6), colour).save(folder / name)


def pair(question: str, image: Image | None, chosen: str, rejected: str) -> PreferencePair:
    turn = Turn(role="user", text=f"<image>\n{question}" if image else question, images=(image,) if image else ())
    prompt = Prompt.of((turn,))
    better, worse = (
        Completion.of(prompt_id=prompt.id, model="unknown", index=i, text=text)
        for i, text in enumerate((chosen, rejected))
    )
    return PreferencePair.of(prompt=prompt, chosen=better, rejected=worse, margin=None, rule="by hand")


def the_pairs(folder: Path) -> list[PreferencePair]:
    photo(folder, "cat.png", "red")
    photo(folder, "dog.png", "blue")
    store = ImageStore(root=folder)
    return [
        pair("What is it?", store.named("cat.png"), "A cat.", "A dog."),
        pair("Wo schläft er?\nSag es kurz.", store.named("dog.png"), "Im Körbchen 🐕.", "Nirgends."),
    ]


def run(*words: object) -> int:
    return align.cli.main([str(word) for word in words])


def content(pairs: list[PreferencePair]) -> set[tuple[str, str, str]]:
    return {(p.prompt.id, p.chosen.text, p.rejected.text) for p in pairs}


@pytest.mark.parametrize("target", PAIR_FORMATS)
@pytest.mark.parametrize("source", PAIR_FORMATS)
def test_from_each_format_to_each_other(tmp_path: Path, source: str, target: str) -> None:
    pairs = the_pairs(tmp_path / "photos")
    forms = formats()
    first = tmp_path / f"first.{forms[source].container}"
    write_file(pairs, first, forms[source], images=ImageStore(root=tmp_path / "photos"))
    # as a user does it: the images of the first file are embedded, or lie in photos/
    shutil.copytree(tmp_path / "photos", tmp_path / "pictures")
    second = tmp_path / f"second.{forms[target].container}"
    assert run("convert", first, second, "--from", source, "--to", target,
               "--image-root", tmp_path / "photos", "--image-dir", tmp_path / "pictures", "-q") == 0  # fmt: skip
    again = read_file(second, form=target, images=ImageStore(root=tmp_path / "pictures", folder=tmp_path / "pictures"))
    assert content(list(again)) == content(pairs)


def test_shards_become_one_file_and_the_count_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in {"a": ["1", "2"], "b": ["3"]}.items():
        told = [{"prompt": text, "chosen": "yes", "rejected": "no"} for text in rows]
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
    out = tmp_path / "all.jsonl"
    assert (
        run("convert", tmp_path / "a.json", tmp_path / "b.json", out, "--from", "vl_rlhf", "--to", "mmalign", "--json")
        == 0
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["rows"], told["records"], told["failures"]) == (3, 3, 0)
    assert [p.prompt.turns[0].text for p in read_records(out, PreferencePair)] == ["1", "2", "3"]


BAD = [
    {"prompt": "1", "chosen": "yes", "rejected": "no"},
    {"prompt": "2", "chosen": "", "rejected": "no"},
    {"prompt": "3", "chosen": "yes"},
]


def test_every_bad_row_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "a.json", tmp_path / "out" / "b.jsonl"
    source.write_text(json.dumps(BAD))
    assert run("convert", source, out, "--from", "vl_rlhf", "--to", "mmalign") == 2
    said = capsys.readouterr().err
    assert f"{source} row 2: chosen: empty answer" in said and f"{source} row 3: rejected: missing" in said
    assert not out.exists() and "Traceback" not in said


def test_bad_rows_may_be_left_out_and_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "a.json", tmp_path / "b.jsonl"
    source.write_text(json.dumps(BAD))
    assert run("convert", source, out, "--from", "vl_rlhf", "--to", "mmalign", "--invalid", "skip") == 0
    assert "1 rows of mmalign, from 1 records; 2 left out" in capsys.readouterr().out
    failures = list(read_records(tmp_path / "b.jsonl.failures.jsonl", Failure))
    assert [f.record_id for f in failures] == ["a.json row 2", "a.json row 3"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.json"], "say where the result is to go"),
        (["a.json", "a.json", "--to", "povid"], "is both read and written"),
        (["a.json", "b.json", "--to", "povdi"], "did you mean 'povid'?"),
        (["none.json", "b.json", "--to", "povid"], "none.json: cannot be read"),
        (["odd.json", "b.json", "--to", "povid"], "no format has the keys of its first row (x, y)"),
        (["a.json", "b.json", "--to", "povid", "--from", "vl_rlhf", "--image-root", "no_such"], "is not a folder"),
        (["a.json", "b.json", "--to", "nemo_steerlm", "--from", "vl_rlhf"], "holds annotated"),
        (["a.json", "b.json", "--to", "ultrafeedback", "--from", "vl_rlhf"], "is only read"),
        (
            ["a.json", "b.json", "--to", "povid", "--from", "vl_rlhf", "--image-dir", "odd.json"],
            "--image-dir: odd.json is a file; a folder of that name is needed there",
        ),
        (["a.json", "odd.json/b.json", "--to", "povid", "--from", "vl_rlhf"], "OUT: odd.json is a file; a folder"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(json.dumps(BAD[:1]))
    Path("odd.json").write_text('[{"x": 1, "y": 2}]')
    if "--to" not in words:
        words = [*words, "--to", "povid"]
    assert run("convert", *words) == 2
    assert says in capsys.readouterr().err and not Path("b.json").exists()


def test_what_is_lost_by_way_of_another_format_is_what_the_page_says(tmp_path: Path) -> None:
    by_hand = pair("What is it?", None, "A cat.", "A dog.")
    better = Completion.of(prompt_id=by_hand.prompt.id, model="llava", index=3, text="A cat.")
    ours = PreferencePair.of(
        prompt=by_hand.prompt, chosen=better, rejected=by_hand.rejected, margin=2.0, rule="best", evidence=("a0",)
    )
    write_records(tmp_path / "ours.jsonl", [ours])
    assert run("convert", tmp_path / "ours.jsonl", tmp_path / "other.json", "--to", "vl_rlhf", "-q") == 0
    back = ("--from", "vl_rlhf", "--to", "mmalign", "-q")
    assert run("convert", tmp_path / "other.json", tmp_path / "again.jsonl", *back) == 0
    (again,) = read_records(tmp_path / "again.jsonl", PreferencePair)
    assert again.prompt.id == ours.prompt.id
    assert (again.chosen.text, again.rejected.text) == (ours.chosen.text, ours.rejected.text)
    assert (again.margin, again.rule, again.evidence) == (None, "vl_rlhf", ())
    assert again.id != ours.id and again.chosen.id != ours.chosen.id


def test_rows_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/b\.json: cannot be written"):
        with write_rows(tmp_path / "file" / "b.json", "json"):
            pass


def test_images_that_were_not_opened_keep_two_questions_apart(tmp_path: Path) -> None:
    rows = [{"image": f"{i}.jpg", "prompt": "What is it?", "chosen": "A cat.", "rejected": "No."} for i in range(2)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert run("convert", tmp_path / "a.json", tmp_path / "b.jsonl", "--to", "mmalign", "-q") == 0
    pairs = list(read_records(tmp_path / "b.jsonl", PreferencePair))
    assert [p.prompt.images[0].sha256 for p in pairs] == ["path:0.jpg", "path:1.jpg"]
    assert pairs[0].prompt.id != pairs[1].prompt.id


def test_a_file_of_prompts_is_no_file_of_pairs(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [Prompt.of((Turn(role="user", text="Why?"),))])
    with pytest.raises(UserError, match="povid holds pairs, not prompts"):
        write_file(
            read_file(tmp_path / "a.jsonl"), tmp_path / "b.json", formats()["povid"], images=ImageStore(root=None)
        )


def test_a_file_is_not_overwritten_by_another_name_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(BAD[:1]))
    (tmp_path / "b.json").symlink_to("a.json")
    assert run("convert", tmp_path / "a.json", tmp_path / "b.json", "--from", "vl_rlhf", "--to", "povid") == 2
    assert "is both read and written" in capsys.readouterr().err
    assert json.loads((tmp_path / "a.json").read_text()) == BAD[:1]


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    # the images of a parquet file with one bad row
    pairs, forms = the_pairs(tmp_path / "photos"), formats()
    write_file(pairs, tmp_path / "a.parquet", forms["rlaif_v"], images=ImageStore(root=tmp_path / "photos"))
    rows = [placed.value for placed in read_rows(tmp_path / "a.parquet")]
    with write_rows(tmp_path / "a.parquet", "parquet") as put:
        for row in (*rows, {**rows[0], "chosen": ""}):
            put(row)
    out = tmp_path / "out"
    out.mkdir()
    words = ["convert", tmp_path / "a.parquet", out / "d.json", "--to", "llama_factory", "-q"]
    assert run(*words) == 2
    assert not list(out.iterdir())
    # a companion that cannot be written
    (out / "dataset_info.json").write_text("{")
    assert run(*words, "--invalid", "skip") == 2
    assert [path.name for path in out.iterdir()] == ["dataset_info.json"]
    (out / "dataset_info.json").unlink()
    assert run(*words, "--invalid", "skip") == 0
    assert {path.name for path in out.iterdir()} == {
        "dataset_info.json", "d.json", "d.json.images", "d.json.failures.jsonl",
    }  # fmt: skip
    # and a clean run takes the failures of the run before away
    write_file(pairs, tmp_path / "a.parquet", forms["rlaif_v"], images=ImageStore(root=tmp_path / "photos"))
    assert run(*words) == 0
    assert not (out / "d.json.failures.jsonl").exists()


def test_pairs_and_examples_in_one_file_become_our_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
    lines = [json.dumps({**answer, "rejected_response": "Hm."}), json.dumps(answer)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert run("convert", tmp_path / "a.jsonl", tmp_path / "b.json", "--from", "ms_swift", "--to", "llama_factory") == 2
    assert "is one of examples, but the file began with pairs; --to mmalign takes both" in capsys.readouterr().err
    assert (
        run("convert", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--from", "ms_swift", "--to", "mmalign", "-q") == 0
    )
    assert [type(r).__name__ for r in read_file(tmp_path / "b.jsonl")] == ["PreferencePair", "Example"]


HELPSTEER = Path(__file__).parent / "formats/helpsteer.jsonl"


def test_what_can_be_read_only_once_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else what a first look takes from a pipe would be missing from the result."""
    reader, writer = os.pipe()
    os.write(writer, HELPSTEER.read_bytes())
    os.close(writer)
    pipe, out = f"/dev/fd/{reader}", tmp_path / "out"
    for words in (
        ["convert", pipe, out, "--to", "mmalign"],
        ["convert", HELPSTEER, pipe, out, "--to", "mmalign"],
        ["validate", pipe],
        ["doctor", pipe],
        ["agreement", pipe],
        ["agreement", HELPSTEER, "--with", pipe, "--out", out],
        ["pairs", pipe, out],
    ):
        assert run(*words) == 2
        told = f"{pipe}: is a pipe; save it to a file first, files are read more than once\n"
        assert capsys.readouterr() == ("", told)
    assert os.read(reader, 1 << 20) == HELPSTEER.read_bytes() and list(tmp_path.iterdir()) == []
    os.close(reader)


def test_a_pipe_by_name_and_the_sign_for_standard_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, is_what in ((tmp_path / "fifo", "a pipe"), ("/dev/null", "a device"), ("-", "the standard input")):
        assert run("validate", name) == 2
        assert capsys.readouterr().err.startswith(f"{name}: is {is_what}; save it to a file first")


def test_only_files_are_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert run("convert", HELPSTEER, tmp_path / "fifo", "--to", "mmalign") == 2
    assert run("convert", HELPSTEER, "/dev/null", "--to", "mmalign") == 2
    assert capsys.readouterr().err == (
        f"{tmp_path / 'fifo'}: is a pipe, which is not written over; name a file\n"
        "/dev/null: is a device, which is not written over; name a file\n"
    )
    assert (tmp_path / "fifo").is_fifo() and Path("/dev/null").is_char_device()


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("kept/real.jsonl")
    assert run("convert", HELPSTEER, tmp_path / "link.jsonl", "--to", "mmalign", "-q") == 0
    assert (tmp_path / "link.jsonl").readlink() == Path("kept/real.jsonl")
    assert len(list(read_records(tmp_path / "kept/real.jsonl", Annotated))) == 3
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["real.jsonl"]


LIMITED = """
import resource, sys
from align.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
sys.exit(main(sys.argv[2:]))
"""


def as_limited(file_bytes: int, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """As after `ulimit -f`."""
    command = [sys.executable, "-c", LIMITED, *map(str, (file_bytes, *words))]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_folder_in_which_nothing_can_be_made_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", HELPSTEER, "/proc/b.jsonl", "--to", "mmalign") == 2
    told = capsys.readouterr().err
    assert told.startswith("/proc: cannot be written (") and told.count("\n") == 1


def test_rows_that_cannot_be_sorted_on_disk_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "a.jsonl").write_text(HELPSTEER.read_text())
    for words in (["convert", "a.jsonl", "b.jsonl", "--to", "mmalign"], ["validate", "a.jsonl"], ["doctor", "a.jsonl"],
                  ["agreement", "a.jsonl"]):  # fmt: skip
        words = [str(tmp_path / w) if w.endswith(".jsonl") else w for w in words]
        done = as_limited(100, *words, TMPDIR=str(tmp_path / "tmp"))
        assert (done.returncode, done.stderr) == (
            2,
            f"{tmp_path / 'tmp'}: cannot be written (File too large); the rows of a.jsonl are sorted there: make room, "
            "or set TMPDIR to another folder\n",
        )
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.jsonl", "tmp"]


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    """Known by a lock that nobody holds; one that is held belongs to a run that goes on."""
    left = [tmp_path / name for name in (".b.jsonl.images-1", ".b.jsonl.rows-2", "tmp/align-rows-3", "out/.report-4")]
    for folder in (*left, tmp_path / ".b.jsonl.rows-held"):
        folder.mkdir(parents=True)
        (folder / "lock").touch()
    with (tmp_path / ".b.jsonl.rows-held/lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = as_limited(-1, "convert", HELPSTEER, tmp_path / "b.jsonl", "--to", "mmalign", TMPDIR=f"{tmp_path}/tmp")
    assert done.returncode == 0 and run("doctor", HELPSTEER, "--out", tmp_path / "out", "-q") == 0
    assert [folder for folder in left if folder.exists()] == [] and (tmp_path / ".b.jsonl.rows-held").exists()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["doctor.html", "doctor.json"]


def test_an_interrupted_conversion_says_that_nothing_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(HELPSTEER.read_text() * 100_000)
    command = [sys.executable, "-m", "align", "convert", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    with subprocess.Popen([*command, "--to", "mmalign"], stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob(".b.jsonl.images-*/lock")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and said.endswith(b"\ninterrupted; nothing was written\n")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
