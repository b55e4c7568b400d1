"""`align analyse`: the papers' tables and curves, of runs and of scores written down by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluated import SHA, write_run

from align.cli import main

# Multi-Modal Preference Alignment, Table 2
TABLE_2 = """system,mm_vet,mt_bench,pope
Vicuna,,6.57,
LLaVA,36.3,5.99,0.859
RLHF,37.2,6.18,0.869
SFT,36.5,5.01,0.850
SteerLM,35.2,5.70,0.878
rejection sampling,38.0,6.22,0.883
DPO,41.2,6.73,0.870
"""


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["analyse", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["analyse", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_the_papers_two_benchmarks_over_its_six_systems(tmp_path, capsys):
    file = tmp_path / "scores.csv"
    file.write_text(TABLE_2)
    found = told(capsys, "correlation", file, "--x", "mm_vet", "--y", "mt_bench", "--out", tmp_path / "out")
    assert (found["n"], round(found["r"], 3), round(found["r2"], 3), round(found["p"], 3)) == (6, 0.734, 0.539, 0.097)
    assert found["left_out"] == [{"system": "Vicuna", "why": "no mm_vet"}]
    page = (tmp_path / "out/correlation.html").read_text(encoding="utf-8")
    assert "R2 0.54 [0.00, 0.94], Pearson +0.73 [−0.19, +0.97], p=0.097, n=6" in page and "<svg" in page
    assert json.loads((tmp_path / "out/correlation.json").read_text())["points"][0]["system"] == "LLaVA"


def test_a_table_of_scores_that_is_none_is_told(tmp_path, capsys):
    file = tmp_path / "scores.csv"
    file.write_text("system,a,b\none,1,2\ntwo,much,3\n")
    assert f"{file}:3: a: 'much' is no number" in refused(capsys, "correlation", file, "--x", "a", "--y", "b")
    assert "no column 'c'; it has system, a, b" in refused(capsys, "correlation", file, "--x", "a", "--y", "c")
    file.write_text("system,a,b\none,1,2\ntwo,2,3\n")
    assert "only 2 system(s) have both scores (one, two)" in refused(
        capsys, "correlation", file, "--x", "a", "--y", "b"
    )
    assert "--x SUITE --y SUITE" in refused(capsys, "correlation", file)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    answers = {
        "text_instructions": {"backbone": "1111111111", "vlm": "1110000000", "dpo": "1111111000"},
        "pope": {"vlm": "1111111100", "dpo": "1111110000"},
    }
    return write_run(tmp_path / "mine", answers, category="random popular", rows={"dpo": 367})


def test_models_by_suites_with_their_differences(run, tmp_path, capsys):
    found = told(capsys, "table", run)
    rows = {row["model"]: row["cells"] for row in found["rows"]}
    assert rows["backbone"]["pope"] is None  # it sees nothing: a dash
    dpo = rows["dpo"]["text_instructions"]
    assert (dpo["run"], dpo["value"], dpo["n"]) == ("mine", 0.7, 10)
    assert (dpo["minus_vlm"]["mean"], dpo["minus_backbone"]["mean"]) == (0.4, -0.3)
    assert dpo["minus_vlm"]["p"] == 0.125 and dpo["minus_vlm"]["low"] < 0.4 < dpo["minus_vlm"]["high"]  # 2 / 2^4
    assert rows["dpo"]["pope"]["minus_backbone"] is None and rows["vlm"]["pope"]["minus_vlm"] is None
    main(["analyse", "table", str(run)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["language", "backbone", "1.0", "–"] in lines and ["DPO", ".70", "(+.40,", "−.30)", ".60", "(−.20)"] in lines


def test_a_base_that_several_runs_share_stands_once(run, tmp_path, capsys):
    again = {"text_instructions": {"backbone": "1111111111", "vlm": "1110000000", "dpo": "1111111110"}}
    again |= {"pope": {"vlm": "1111111100", "dpo": "1111110000"}}
    other = write_run(tmp_path / "other", again, weights=SHA | {"dpo": "ff" * 32})
    found = told(capsys, "table", run, other)
    names = [(row["run"], row["model"]) for row in found["rows"]]
    assert names == [("mine", "backbone"), ("mine", "vlm"), ("mine", "dpo"), ("other", "dpo")]
    found = told(capsys, "correlation", run, other, "--x", "text_instructions", "--y", "pope")
    assert [p["system"] for p in found["points"]] == ["mine/vlm", "mine/dpo", "other/dpo"]


def test_scores_against_the_rows_of_a_sweep(tmp_path, capsys):
    sweep = tmp_path / "runs/demo/sweep"
    for name, n, marks in (("half", 150, "1111100000"), ("whole", 300, "1111111100")):
        answers = {"pope": {"vlm": "1110000000", "dpo": marks}}
        write_run(sweep / name, answers, rows={"dpo": n})
    (sweep / "table.json").write_text("{}")
    found = told(capsys, "scaling", tmp_path / "runs/demo", "--out", tmp_path / "out")
    (series,) = found["series"]
    assert (series["model"], series["suite"], series["start"]["value"]) == ("dpo", "pope", 0.3)
    assert [(p["rows"], p["value"], p["run"]) for p in series["points"]] == [(150, 0.5, "half"), (300, 0.8, "whole")]
    assert all(p["low"] < p["value"] < p["high"] and p["n"] == 10 for p in series["points"])
    assert "rows trained on" in (tmp_path / "out/scaling.html").read_text(encoding="utf-8")


def test_checkpoints_by_their_steps(tmp_path, capsys):
    runs = [
        write_run(tmp_path / name, {"pope": {"vlm": "1110000000", "dpo": marks}})
        for name, marks in (("late", "1111000000"), ("early", "1111111100"))
    ]
    found = told(capsys, "trajectory", *runs, "--models", "dpo", "--steps", 200, 100, "--out", tmp_path / "out")
    points = [(p["step"], p["value"], p["run"]) for p in found["series"][0]["points"]]
    assert points == [(100, 0.8, "early"), (200, 0.4, "late")]
    assert "--steps: 1 for 2 runs" in refused(capsys, "trajectory", *runs, "--steps", "1")
    assert "no run has 'ppo'; they have vlm, dpo" in refused(capsys, "trajectory", *runs, "--models", "ppo")


def test_a_suite_by_what_its_questions_ask_for(run, tmp_path, capsys):
    found = told(capsys, "capabilities", run, "--suite", "pope", "--out", tmp_path / "out")
    bars = {(b["part"], b["model"]): (b["value"], b["n"]) for b in found["bars"]}
    # of ten questions the even ones are random, the odd ones popular
    assert bars == {
        ("random", "vlm"): (0.8, 5), ("popular", "vlm"): (0.8, 5),
        ("random", "dpo"): (0.6, 5), ("popular", "dpo"): (0.6, 5),
    }  # fmt: skip
    named = told(capsys, "capabilities", run, "--suite", "pope", "--parts", "f1")
    assert [(b["part"], b["model"], round(b["value"], 3)) for b in named["bars"]] == [
        ("f1", "vlm", 0.889),
        ("f1", "dpo", 0.75),
    ]
    assert "--suites: no run has 'mme'" in refused(capsys, "capabilities", run, "--suite", "mme")
