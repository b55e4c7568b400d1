"""`align compare`: two runs written down by hand, joined question by question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluated import write_run

from align.cli import main
from align.digest import file_sha256

WEAK = "1100000000"  # 2 of 10
STRONG = "1111111100"  # 8 of 10: right where WEAK is, and on six more


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["compare", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["compare", *map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    first = write_run(tmp_path / "first", {"pope": {"vlm": WEAK, "dpo": WEAK}, "text_instructions": {"dpo": WEAK}})
    second = write_run(tmp_path / "second", {"pope": {"vlm": WEAK, "dpo": STRONG}, "text_instructions": {"dpo": WEAK}})
    return first, second


def test_the_same_questions_are_compared_model_by_model(runs, capsys):
    found = told(capsys, *runs)
    assert found["schema"] == "compare/1"
    assert [(row["suite"], *row["models"]) for row in found["rows"]] == [
        ("pope", "vlm", "vlm"),
        ("pope", "dpo", "dpo"),
        ("text_instructions", "dpo", "dpo"),
    ]
    row = found["rows"][1]
    assert (row["measure"], row["first"]["value"], row["second"]["value"]) == ("accuracy", 0.2, 0.8)
    # six questions differ, all in one direction: 2 / 2^6, and twice that since two suites are tested
    assert (row["difference"]["mean"], row["difference"]["p"], row["p_holm"]) == (0.6, 0.03125, 0.0625)
    assert (row["test"], row["joined"], row["verdict"]) == ("McNemar", 10, "not shown")
    assert row["difference"]["mde"] == pytest.approx(
        2.8016 / 3.9199 * (row["difference"]["high"] - row["difference"]["low"]), abs=1e-4
    )
    assert found["rows"][2]["verdict"] == "not shown"  # all alike, but ten questions rule out little


def test_a_difference_that_is_sure_has_its_word(tmp_path, capsys):
    first = write_run(tmp_path / "a", {"pope": {"dpo": "0000000000"}})
    second = write_run(tmp_path / "b", {"pope": {"dpo": "1111111110"}})
    (row,) = told(capsys, first, second)["rows"]
    assert (row["p_holm"], row["verdict"]) == (0.003906, "better")  # 2 / 2^9
    (row,) = told(capsys, second, first)["rows"]
    assert (row["difference"]["mean"], row["verdict"]) == (-0.9, "worse")


def test_questions_that_share_an_image_are_one_observation(tmp_path, capsys):
    first = write_run(tmp_path / "a", {"pope": {"dpo": "0000000000"}}, images=5)
    second = write_run(tmp_path / "b", {"pope": {"dpo": "1111111111"}}, images=5)
    found = told(capsys, first, second)
    assert (found["rows"][0]["difference"]["p"], found["rows"][0]["test"]) == (0.5, "sign-flip")  # two images
    assert not [w for w in found["warnings"] if "share an image" in w]


def test_what_cannot_be_joined_is_counted_and_told(tmp_path, capsys):
    first = write_run(tmp_path / "a", {"pope": {"vlm": WEAK + "11", "dpo": "11110000??"}})
    second = write_run(tmp_path / "b", {"pope": {"vlm": WEAK, "sft": WEAK}, "text_instructions": {"vlm": WEAK}})
    found = told(capsys, first, second)
    assert found["not_compared"] == {
        "models_only_first": ["dpo"],
        "models_only_second": ["sft"],
        "suites_only_first": [],
        "suites_only_second": ["text_instructions"],
    }
    (row,) = found["rows"]
    assert (row["joined"], row["only_first"], row["only_second"]) == (10, 2, 0)
    (row,) = told(capsys, first, second, "--model", "dpo=sft")["rows"]
    assert (row["first"]["n"], row["first"]["n_failed"], row["scored_only_second"]) == (8, 2, 2)
    main(["compare", str(first), str(second)])
    shown = capsys.readouterr().out
    assert "only in A: models dpo" in shown and "questions in no number: pope (vlm): 2 of A alone" in shown


def test_other_words_other_parsers_other_decoding(tmp_path, capsys):
    first = write_run(tmp_path / "a", {"pope": {"dpo": WEAK}})
    parsed = write_run(tmp_path / "b", {"pope": {"dpo": STRONG}}, parser="yes-no official/1")
    found = told(capsys, first, parsed)
    assert (found["rows"][0]["difference"], found["rows"][0]["verdict"]) == (None, "not compared")
    assert "answers were read by yes-no" in found["rows"][0]["why"] and "no difference is given" in found["warnings"][0]
    longer = write_run(tmp_path / "c", {"pope": {"dpo": STRONG}}, tokens=256)
    found = told(capsys, first, longer)
    assert found["rows"][0]["difference"]["mean"] == 0.6
    assert "decoded differently" in found["warnings"][0] and "max_new_tokens=256" in found["warnings"][0]
    reworded = write_run(tmp_path / "d", {"pope": {"dpo": STRONG}}, shown="in other words")
    assert "10 have one id but were shown differently" in refused(capsys, first, reworded)


def test_every_measure_and_the_page(runs, tmp_path, capsys):
    found = told(capsys, *runs, "--all", "--html", tmp_path / "out")
    measures = {row["measure"]: row for row in found["rows"] if row["suite"] == "pope" and row["models"][0] == "dpo"}
    # of ten questions whose truth is yes, two and eight are answered yes: F1 = 4/12 and 16/18
    assert measures["f1"]["difference"]["mean"] == pytest.approx(16 / 18 - 4 / 12, abs=1e-6)
    assert (measures["f1"]["test"], measures["f1"]["p_holm"], measures["f1"]["verdict"]) == ("swap", None, "")
    assert json.loads((tmp_path / "out/compare.json").read_text()) == {k: v for k, v in found.items() if k != "event"}
    page = (tmp_path / "out/compare.html").read_text(encoding="utf-8")
    assert (
        "second against first" in page
        and "<svg" in page
        and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "first"), "nowhere: no such run"),
        (("empty", "first"), "its stage evaluate is not finished"),
        (("first", "second", "--model", "ppo"), "the first run has no 'ppo'; it has vlm, dpo"),
        (("first", "second", "--margin", "2"), "--margin"),
    ],
)
def test_mistakes_are_told_in_a_line(runs, tmp_path, capsys, monkeypatch, arguments, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *arguments)


def test_answers_that_were_edited_after_the_evaluation_are_told(runs, capsys):
    items = runs[0] / "evaluate" / "items.jsonl"
    path = runs[0] / "evaluate" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"outputs": {"items.jsonl": file_sha256(items)}}))
    assert not [w for w in told(capsys, *runs)["warnings"] if "changed since" in w]
    items.write_text(items.read_text().replace('"accuracy":0.0', '"accuracy":1.0', 1))
    assert told(capsys, *runs)["warnings"][0].startswith("first: items.jsonl changed since the evaluation wrote it")
