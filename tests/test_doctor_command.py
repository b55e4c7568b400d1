"""`align doctor` on files of several formats, on the stages of a run, and its exit codes; the section of the report."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from doctored import pair, points, rated, report_of
from photographs import photographs
from small_run import annotate_recipe, finish
from test_report import findings, page

from align.cli import main
from align.commands import doctor
from align.console import Console
from align.recipe import load_recipe
from annotate.errors import Stopped, UserError
from annotate.jsonl import write_records


def run(*arguments: str | Path, machine: bool = False) -> int:
    parser = argparse.ArgumentParser()
    doctor.arguments(parser)
    return doctor.run(parser.parse_intermixed_args([str(a) for a in arguments]), Console(machine=machine))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "preference.jsonl"
    write_records(path, [pair(i, "a cat and a dog", "a cat", margin=2) for i in range(12)])
    return path


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "doctor.json").read_text())
    return found


def test_a_file_of_pairs(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pairs) == 0
    folder = pairs.with_name("preference.jsonl.doctor")
    assert sorted(p.name for p in folder.iterdir()) == ["doctor.html", "doctor.json"]
    assert report(folder)["length"]["win_rate"]["value"] == 1.0
    out = capsys.readouterr().out
    assert out.startswith("12 prompts: 12 pairs\n!! length") and f"written to {folder}" in out
    first = (folder / "doctor.json").read_bytes()
    run(pairs)
    assert (folder / "doctor.json").read_bytes() == first


def test_scores_may_stand_in_another_file(pairs: Path, tmp_path: Path) -> None:
    scores = points(**{"a cat and a dog": 3, "a cat": 1})
    write_records(tmp_path / "annotated.jsonl", [rated(i, scores) for i in range(6)])
    run(pairs, tmp_path / "annotated.jsonl", "--out", tmp_path / "out")
    assert report(tmp_path / "out")["drift"]["measures"]["helpfulness"]["value"] == 2.0


def test_ratings_and_the_pairs_made_of_them_are_of_the_same_images(tmp_path: Path) -> None:
    """As a user does it: the pairs know images by their bytes, the ratings by their paths below --image-root."""
    marks = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [
        {"prompt": "What is it?", "response": f"A {name}. {text}", "image": f"{name}.jpg", **dict.fromkeys(marks, mark)}
        for name in ("chelsea", "rocket", "moon")
        for text, mark in (("I am sure.", 4), ("Or so.", 1))
    ]
    ratings = tmp_path / "img.jsonl"
    ratings.write_text("".join(json.dumps(row) + "\n" for row in rows))
    root = ["--image-root", str(photographs())]
    assert main(["pairs", str(ratings), str(tmp_path / "out"), *root]) == 0
    both = (ratings, tmp_path / "out" / "preference.jsonl", "--out", tmp_path / "doctor")
    assert run(*both, *root) == 0
    found = report(tmp_path / "doctor")
    assert (found["size"]["n"], found["size"]["annotated_and_paired"]) == (3, 3)
    assert found["drift"]["measures"]["verbosity"]["value"] == 3.0
    lines = tmp_path / "lines.txt"
    lines.write_text("Who is she?\n")
    run(*both, *root, "--against", f"lines={lines}")  # images are opened for their prints, and are the same
    assert report(tmp_path / "doctor")["size"]["n"] == 3


def test_ratings_and_pairs_of_nothing_in_common(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(tmp_path / "annotated.jsonl", [rated(i, points(a=3, b=1)) for i in range(50, 55)])
    run(pairs, tmp_path / "annotated.jsonl")
    assert "!! not joined" in capsys.readouterr().out
    run(pairs)
    assert "not joined" not in capsys.readouterr().out


def test_pairs_of_another_tool(tmp_path: Path) -> None:
    # VL-RLHF plain DPO: image, prompt, chosen, rejected
    rows = [{"image": f"{i}.jpg", "prompt": f"What is {i}?", "chosen": "A cat.", "rejected": "A"} for i in range(3)]
    (tmp_path / "plain.json").write_text(json.dumps(rows))
    assert run(tmp_path / "plain.json", "--from", "vl_rlhf") == 0
    found = report(tmp_path / "plain.json.doctor")
    assert (found["size"]["pairs"], found["size"]["images_known_by_path"]) == (3, 3)
    assert found["margins"]["pairs"]["why"] == "cannot be known from pairs without margins"


def test_broken_limits_end_with_exit_code_3(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped) as stopped:
        run(pairs, "--fail-on", "max_length_win_rate=0.6", "max_ties=0", "max_verbosity_drift=1")
    assert stopped.value.exit_code == 3
    _, length, drift = str(stopped.value).splitlines()
    assert length.startswith("max_length_win_rate=0.6 broken by 100.0% [73.5%, 100.0%]: how often the longer")
    assert "build pairs with a bound on length" in length
    assert drift.startswith("max_verbosity_drift=1 broken by not known (cannot be known from pairs without scores")
    checked = report(pairs.with_name("preference.jsonl.doctor"))["limits"]
    assert [c["broken"] for c in checked] == [True, False, True]
    assert "max_ties=0 kept by 0.0%" in capsys.readouterr().out
    assert run(pairs, "--fail-on", "max_length_win_rate=0.8", "--fail-by", "interval") == 0  # 73.5% is not beyond 80%


def test_what_was_examined_is_named_without_its_folder(pairs: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("Question 1?\n")
    run(pairs, "--against", f"mine={lines}", "--fail-on", "min_pairs=1")
    folder = pairs.with_name("preference.jsonl.doctor")
    found, page_text = report(folder), (folder / "doctor.html").read_text()
    assert found["files"] == ["preference.jsonl"]
    assert found["command"] == "align doctor preference.jsonl --against mine=lines.txt --fail-on min_pairs=1"
    assert f"<code>{found['command']}</code>" in page_text and "<title>doctor, preference.jsonl" in page_text
    assert "record, by its prompt’s id" in page_text
    assert str(tmp_path) not in page_text + json.dumps(found)


def test_for_machines(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(pairs, "--fail-on", "min_pairs=12", machine=True)
    (event,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert event["event"] == "result" and event["limits"][0]["name"] == "min_pairs"
    assert event["findings"][0]["level"] == "bad"


def test_bad_rows_are_counted_and_told(pairs: Path) -> None:
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join([lines[0], '{"schema":"preference_pair/1","id":5}', "not json", *lines[1:]]) + "\n")
    with pytest.raises(Stopped, match="max_bad_rows=0 broken by 2"):
        run(pairs, "--fail-on", "max_bad_rows=0")
    found = report(pairs.with_name("preference.jsonl.doctor"))
    assert found["bad_rows"]["count"] == 2 and found["size"]["pairs"] == 12
    assert found["bad_rows"]["first"][0].startswith(f"{pairs}:2: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "cannot be read"),
        (["FILE", "--fail-on", "max_tie=1"], "did you mean 'max_ties'"),
        (["FILE", "--image-root", "nowhere"], "is not a folder"),
        (["FILE", "--against", "pope"], "write NAME=FILE"),
        (["FILE", "--against", "a=FILE", "--against", "a=FILE"], "each NAME once"),
        (["FILE", "--against", "pope=nowhere.jsonl"], "cannot be read"),
        (["FILE", "--against", "pope=FILE,nowhere"], "nowhere is not a folder"),
        (["FILE", "--ngram", "1"], "at least 2 words"),
        (["FILE", "--from", "vlrlhf"], "no format 'vlrlhf'"),
        (["--fail-on", "max_ties=1", "min_pairs=1", "FILE"], "preference.jsonl: is a file.*FILE goes before --fail-on"),
        (["--seed", "1"], "FILE goes first"),
        (["FOLDER"], "is a folder; name the files in it, try align doctor .*preference.jsonl$"),
        (["FOLDER/empty"], "is a folder; name the files in it, e.g. .*empty/preference.jsonl"),
        (["FILE", "--seed", "-1"], "--seed: -1; expected 0 or more"),
        (["FILE", "--out", "FILE"], r"--out: reports cannot be written to .*File exists"),
        (["FILE", "--out", "FILE/below/it"], r"--out: reports cannot be written to .*Not a directory"),
        (["FILE", "--out", "/proc/nope"], "--out: reports cannot be written to /proc/nope"),
        # before anything is read, which may take long
        (["nowhere.jsonl", "--out", "FILE"], "--out: reports cannot be written to"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(pairs: Path, arguments: list[str], said: str) -> None:
    (pairs.parent / "empty").mkdir()
    before = sorted(pairs.parent.iterdir())
    with pytest.raises(UserError, match=said):
        run(*(a.replace("FILE", str(pairs)).replace("FOLDER", str(pairs.parent)) for a in arguments))
    assert sorted(pairs.parent.iterdir()) == before


def test_a_page_that_cannot_be_replaced_is_told(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "doctor.html").mkdir(parents=True)
    with pytest.raises(UserError, match="--out: reports cannot be written to"):
        run(pairs, "--out", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["doctor.html"]


def test_an_image_that_is_a_link_to_itself_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    row = {"image": "loop.jpg", "prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog."}
    (tmp_path / "plain.json").write_text(json.dumps([row]))
    (tmp_path / "lines.txt").write_text("What is it?\n")
    against = f"lines={tmp_path / 'lines.txt'}"
    assert run(tmp_path / "plain.json", "--from", "vl_rlhf", "--image-root", tmp_path, "--against", against) == 0
    (found,) = report(tmp_path / "plain.json.doctor")["leakage"]["sets"]
    assert found["images"]["n_records_unreadable"] == 1


def test_a_file_without_a_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"schema":"preference_pair/1","id":5}\n')
    with pytest.raises(UserError, match=r"bad.jsonl:1: "):
        run(tmp_path / "bad.jsonl")


def test_questions_and_images_of_an_evaluation_set_are_found(tmp_path: Path) -> None:
    """LLaVA rows about a cat and a rocket; of the three questions of the set one is asked about that very image."""
    for folder in ("data", "val"):
        (tmp_path / folder).mkdir()
    for name in ("chelsea", "rocket"):
        shutil.copy(photographs() / f"{name}.jpg", tmp_path / "data" / f"{name}.jpg")
    from PIL import Image

    with Image.open(photographs() / "chelsea.jpg") as cat:
        cat.resize((336, 336)).save(tmp_path / "val" / "1.jpg", quality=60)
    shutil.copy(photographs() / "china.jpg", tmp_path / "val" / "2.jpg")
    rows = [
        {"id": f"r{i}", "image": image, "conversations": [
            {"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "Yes."}]}
        for i, (image, text) in enumerate([("chelsea.jpg", "Is there a cat?"), ("rocket.jpg", "Is it flying?")])
    ]  # fmt: skip
    (tmp_path / "llava.json").write_text(json.dumps(rows))
    questions = [("1.jpg", "Is there a cat?"), ("1.jpg", "Is there a dog?"), ("2.jpg", "Is it flying?")]
    (tmp_path / "pope.jsonl").write_text(
        "".join(json.dumps({"question_id": i, "image": m, "text": t}) + "\n" for i, (m, t) in enumerate(questions))
    )
    against = f"pope={tmp_path / 'pope.jsonl'},{tmp_path / 'val'}"
    with pytest.raises(Stopped, match=r"max_leakage=0 broken by 33\.3%"):
        run(
            tmp_path / "llava.json", "--image-root", tmp_path / "data", "--against", against,
            "--fail-on", "max_leakage=0", "max_shared_images=0.7",
        )  # fmt: skip
    (found,) = report(tmp_path / "llava.json.doctor")["leakage"]["sets"]
    by_item = {f["item"]: (f["leaked"], f["text"], f["image"]) for f in found["findings"]}
    assert by_item == {"0": (True, "exact", "near"), "1": (False, None, "near"), "2": (False, "exact", None)}
    assert found["findings"][0]["record"].startswith("r0 (")
    assert found["images"]["shared"] == {"value": round(2 / 3, 4), "n": 3}


def test_a_leak_that_cannot_be_checked_is_no_pass(tmp_path: Path) -> None:
    """No image folder is given: by its file name one image is the set's, of another with that question nobody knows."""
    asked = [("val/1.jpg", "Is there a cat?"), ("val/2.jpg", "Is there a cat?"), ("val/3.jpg", "Is it flying?")]
    (tmp_path / "pope.jsonl").write_text(
        "".join(json.dumps({"question_id": i, "image": m, "text": t}) + "\n" for i, (m, t) in enumerate(asked))
    )
    rows = [
        {"image": image, "prompt": text, "chosen": "Yes.", "rejected": "No."}
        for image, text in [("coco/1.jpg", "Is there a cat?"), ("coco/3.jpg", "Is there a dog?")]
    ]
    (tmp_path / "plain.json").write_text(json.dumps(rows))
    said = r"max_leakage=1 broken by 50\.0% \(1 is asked in the data, its images could not be compared: give NAME=FILE"
    with pytest.raises(Stopped, match=said):
        run(
            tmp_path / "plain.json", "--from", "vl_rlhf", "--against", f"pope={tmp_path / 'pope.jsonl'}",
            "--fail-on", "max_leakage=1",
        )  # fmt: skip
    (found,) = report(tmp_path / "plain.json.doctor")["leakage"]["sets"]
    by_item = {f["item"]: (f["leaked"], f["text"], f["image"]) for f in found["findings"]}
    assert by_item == {"0": (True, "exact", "name"), "1": (None, "exact", None), "2": (False, None, "name")}


def test_the_finished_stages_of_a_run(tmp_path: Path) -> None:
    path = annotate_recipe(tmp_path)
    recipe = load_recipe(path, [f"runs={tmp_path / 'runs'}"])
    with pytest.raises(UserError, match="neither annotate nor pairs has run"):
        run(path, f"runs={tmp_path / 'runs'}")
    records = [rated(i, points(a=4, bb=1)) for i in range(4)]
    finish(recipe, "annotate", {"annotated.jsonl": records, "failures.jsonl": []}, units=4)
    assert run(path, f"runs={tmp_path / 'runs'}") == 0
    found = report(recipe.folder / "doctor")
    assert (found["size"]["annotated"], found["size"]["pairs"]) == (4, 0)
    finish(
        recipe,
        "pairs",
        {"preference.jsonl": [pair(i, "a", "bb", margin=3) for i in range(4)], "funnel.json": {"total": {"kept": 4}}},
    )
    run(path, f"runs={tmp_path / 'runs'}")
    found = report(recipe.folder / "doctor")
    assert (found["size"]["pairs"], found["funnel"]) == (4, [{"step": "kept", "count": 4}])
    assert found["drift"]["measures"]["helpfulness"]["value"] == 3.0


def test_the_report_of_a_run_has_a_section(tmp_path: Path) -> None:
    made = report_of([pair(i, "a cat and a dog", "a cat", margin=2) for i in range(6)])
    less = {"verdicts": {}, "logs": {}, "pairs": [pair(1, "a", "b")]}  # whose margin is not known
    html = page(findings(tmp_path, doctor=made, **less))
    assert '<section id="doctor"' in html and "the longer one is chosen in 100%" in html
    assert "Histogram of margins" not in html
    assert '<section id="doctor"' not in page(findings(tmp_path, **less))
