"""Captions of COCO and Flickr30k: their files, `align score`, and rows for a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as Pillow

from align.benchmarks.captions import PROMPT, caption_rows, read_references
from align.benchmarks.cider import cider_d
from align.benchmarks.rows import load_rows, write_rows
from align.benchmarks.suites import SUITES
from align.cli import main
from annotate.errors import UserError

REFERENCES = {
    "42": ["A rack of shoes.", "This wire rack holds several pairs of shoes."],
    "73": ["A motorcycle is parked.", "An old motorcycle on the grass."],
    "74": ["A dog sleeps on the street.", "A white dog lying on the street."],
}
SAID = {"42": "a rack with shoes", "73": "An old motorcycle is parked on the grass.", "74": "a cat"}


def coco(folder: Path) -> Path:
    made = {
        "images": [{"id": int(i), "file_name": f"COCO_val2014_{int(i):012}.jpg"} for i in REFERENCES],
        "annotations": [
            {"id": n, "image_id": int(i), "caption": text}
            for n, (i, text) in enumerate((i, text) for i, texts in REFERENCES.items() for text in texts)
        ],
    }
    return write(folder / "captions_val2014.json", made)


def karpathy(folder: Path) -> Path:
    images = [
        {
            "filename": f"{i}.jpg",
            "split": "test",
            "imgid": n,
            "sentences": [{"raw": text, "tokens": []} for text in texts],
        }
        for n, (i, texts) in enumerate(REFERENCES.items())
    ]
    images.append({"filename": "9.jpg", "split": "train", "imgid": 9, "sentences": [{"raw": "A bus."}]})
    return write(folder / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def answers(folder: Path, said: dict[str, str] = SAID) -> Path:
    return write(folder / "results.json", [{"image_id": int(i), "caption": text} for i, text in said.items()])


def score(capsys, benchmark: str, said: Path, asked: Path, *more: str) -> dict:
    assert main(["score", benchmark, "--answers", str(said), "--questions", str(asked), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, said: Path, asked: Path) -> str:
    assert main(["score", "coco_captions", "--answers", str(said), "--questions", str(asked)]) == 2
    return capsys.readouterr().err


def test_both_layouts_give_the_mean_of_cider_d(tmp_path, capsys):
    values = cider_d(SAID, REFERENCES)
    for benchmark, asked in (("coco_captions", coco(tmp_path)), ("flickr30k", karpathy(tmp_path))):
        found = score(capsys, benchmark, answers(tmp_path), asked)
        first, words = found["metrics"]
        assert (first["name"], first["n"], first["n_failed"]) == ("cider_d", 3, 0)
        assert first["value"] == pytest.approx(sum(values.values()) / 3)
        assert first["low"] < first["value"] < first["high"]
        assert (words["name"], words["value"]) == ("n_words", pytest.approx((4 + 8 + 2) / 3))
        assert found["warnings"] == []


def test_answers_of_llava_are_read_too_and_images_may_be_named_by_their_file(tmp_path, capsys):
    said = tmp_path / "answers.jsonl"
    said.write_text("".join(json.dumps({"question_id": f"{i}.jpg", "text": t}) + "\n" for i, t in SAID.items()))
    one = score(capsys, "flickr30k", said, karpathy(tmp_path))
    assert one["metrics"] == score(capsys, "flickr30k", answers(tmp_path), karpathy(tmp_path))["metrics"]


def test_an_empty_caption_and_a_missing_one_are_failures_not_zeros(tmp_path, capsys):
    few = answers(tmp_path, {"42": SAID["42"], "73": " "})
    found = score(capsys, "coco_captions", few, coco(tmp_path), "--least-coverage", "0.3")
    assert (found["metrics"][0]["n"], found["metrics"][0]["n_failed"]) == (1, 2)
    assert "1 of 3 images have no caption" in found["warnings"][0]
    found = score(capsys, "coco_captions", few, coco(tmp_path))
    assert found["metrics"][0]["value"] is None and "2 of 3 answers have no score" in found["warnings"][-1]


def test_files_that_do_not_fit_are_refused(tmp_path, capsys):
    asked = coco(tmp_path)
    assert "results.json:1: is of an image that is not asked about" in refused(
        capsys, answers(tmp_path, {"7": "x"}), asked
    )
    twice = write(tmp_path / "twice.json", [{"image_id": 42, "caption": "x"}, {"image_id": "42", "caption": "y"}])
    assert "twice.json:2: `image_id` 42 occurs twice" in refused(capsys, twice, asked)
    wrong = write(tmp_path / "wrong.json", [{"image_id": 42, "captoin": "x"}])
    assert "wrong.json:1: no field `caption` or `text`; it has image_id, captoin" in refused(capsys, wrong, asked)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "expected an object with `images`"),
        ({"images": [], "annotations": []}, "no images in it"),
        # COCO's instances: annotations without captions
        ({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1}]}, ":1: no field `caption`"),
        (
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "caption": "x"}]},
            "`image_id` 2 is none of the file's `images`",
        ),
        ({"images": [{"id": 1, "file_name": "a"}], "annotations": []}, "1 images have no caption, the first is 1"),
        ({"images": [{"filename": "a.jpg", "split": "train"}]}, "no image of the split 'test'; its splits are train"),
        ({"images": [{"filename": "a.jpg", "split": "test", "sentences": ["x"]}]}, "`sentences` number 1: expected"),
        ({"images": [3]}, "`images` number 1: expected an object"),
    ],
)
def test_references_that_are_none_are_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=r"asked\.json"):
        read_references(write(tmp_path / "asked.json", content))
    with pytest.raises(UserError) as caught:
        read_references(tmp_path / "asked.json")
    assert said in str(caught.value)


def images(folder: Path) -> Path:
    folder.mkdir()
    for i in REFERENCES:
        Pillow.new("RGB", (8, 8), (int(i), 0, 0)).save(folder / f"COCO_val2014_{int(i):012}.jpg")
    return folder


def prepare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "data/prepare_captions.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)


def test_the_script_writes_what_a_recipe_asks(tmp_path):
    """`evaluate: {folder: OUT, suites: [coco_captions]}`, `prompts: {image_root: …}`."""
    given = (coco(tmp_path), images(tmp_path / "val"), "--image-root", tmp_path, "--out", tmp_path / "bench")
    done = prepare("coco_captions", *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert "coco_captions.jsonl: 3 images, 6 references" in done.stdout
    assert len(load_rows(tmp_path / "bench" / "coco_captions.jsonl", suite="coco_captions")) == 3
    done = prepare("coco_captions", tmp_path / "none.json", *given[1:])
    assert done.returncode == 2 and done.stderr.startswith(f"{tmp_path / 'none.json'}: cannot be read")


def test_rows_show_the_image_and_keep_the_references(tmp_path):
    images(tmp_path / "val")
    rows = caption_rows("coco_captions", coco(tmp_path), tmp_path / "val", tmp_path)
    assert [row.id for row in rows] == ["42", "73", "74"]
    write_rows(tmp_path / "coco_captions.jsonl", rows)
    first, *rest = load_rows(tmp_path / "coco_captions.jsonl", suite="coco_captions")
    assert [first, *rest] == rows
    assert first.prompt.turns[0].text == f"<image>\n{PROMPT}"
    assert first.prompt.images[0].path == "val/COCO_val2014_000000000042.jpg"
    assert SUITES["coco_captions"].fault(first) == ""
    suite = SUITES["coco_captions"].asking(rows)
    values = cider_d(SAID, REFERENCES)
    assert {row.id: suite.score(row, [SAID[row.id]]).value["cider_d"] for row in rows} == pytest.approx(values)
    assert suite.score(first, [" "]).state == "unparsed"
    (tmp_path / "val" / "COCO_val2014_000000000073.jpg").unlink()
    with pytest.raises(UserError, match=r"000000000073.jpg: cannot be read"):
        caption_rows("coco_captions", coco(tmp_path), tmp_path / "val", tmp_path)
