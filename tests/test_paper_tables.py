"""`align analyse paper`: tables and figures in a paper's layout, of recorded runs and of results from elsewhere."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluated import SHA, write_run

from align.analyses.layout import read_layout
from align.analyses.printed import Number, number_of
from align.analyses.runs import read_run
from align.analyses.sources import RunSource, of_suite, only_suite
from align.benchmarks.measures import average, estimate, mean
from align.cli import main
from align.report.paper import render_page, render_text
from annotate.errors import UserError

LAYOUT = """
paper: A Paper (arXiv:0000.00000)
columns:
  text: {label: Text, suite: text_instructions, times: 100}
  pope: {label: POPE, under: Vision, suite: pope, times: 100}
  f1: {label: F1, under: Vision, suite: pope, measure: f1, times: 100}
  both: {label: Avg., mean_of: [text, pope]}
  noisy: {label: Noisy, suite: text_noisy_image, times: 100, drop_from: text}
rows:
  base: {label: LM, group: base, run: mine, model: backbone}
  tuned: {label: MM-ft, group: base, run: mine, minus: base}
  other: {label: MM-lora, group: aligned, run: theirs, minus: tuned}
  never: {label: MM-none, group: aligned, run: never-made, minus: base}
tables:
  table_1:
    title: Table 1
    columns: [text, pope, both, noisy]
    rows: [base, tuned, other, never]
    reference: {base: [45.8, null, null, null], tuned: [65.4, 80.0, null, 60.0], never: [88.0, 1.0, 2.0, 3.0]}
    printed: {tuned: [19.6, null, null, -9.3], never: [42.1, null, null, null]}
    notes: [Only a trial.]
"""
ANSWERS = {
    "text_instructions": {"backbone": "1111100000", "vlm": "1111111110"},
    "text_noisy_image": {"vlm": "1110000000"},
    "pope": {"vlm": "1111111100"},
}
OTHER = {
    "text_instructions": {"vlm": "1111111000"},
    "text_noisy_image": {"vlm": "1111111000"},
    "pope": {"vlm": "11111?????"},
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs/mine", ANSWERS, category="random popular")
    write_run(tmp_path / "runs/theirs", OTHER, category="random popular")
    return tmp_path / "runs"


def made(capsys: pytest.CaptureFixture[str], layout: str, runs: Path, *more: object) -> dict[str, Any]:
    (runs / "paper.yaml").write_text(layout, encoding="utf-8")
    assert main(["analyse", "paper", str(runs / "paper.yaml"), "--runs", str(runs), "--json", *map(str, more)]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], layout: str, runs: Path) -> str:
    (runs / "paper.yaml").write_text(layout, encoding="utf-8")
    assert main(["analyse", "paper", str(runs / "paper.yaml"), "--runs", str(runs)]) == 2
    return capsys.readouterr().err


def cells(found: dict[str, Any], row: str, part: int = 0) -> dict[str, Any]:
    return next(r["cells"] for r in found["parts"][part]["rows"] if r["key"] == row)


def numbers(found: Any) -> Iterator[dict[str, Any]]:
    """Every number of every cell, wherever it stands."""
    if isinstance(found, dict):
        if found.get("number"):
            yield found["number"]
        for inner in found.values():
            yield from numbers(inner)
    elif isinstance(found, list):
        for inner in found:
            yield from numbers(inner)


# -------------------------------------------------------------------------------------------------------------- cells


def test_numbers_differences_and_dashes(runs, capsys):
    found = made(capsys, LAYOUT, runs)
    tuned = cells(found, "tuned")
    assert (tuned["text"]["number"]["value"], tuned["text"]["number"]["n"]) == (90.0, 10)
    delta = tuned["text"]["delta"]
    assert (delta["to"], round(delta["mean"], 9), delta["n"], delta["paired"]) == ("base", 40.0, 10, True)
    assert delta["p"] == 0.125  # four questions won, none lost: 2 / 2^4
    assert delta["low"] < 40 < delta["high"]
    # across runs the same questions are joined
    other = cells(found, "other")["text"]["delta"]
    assert (round(other["mean"], 9), other["n"], other["paired"]) == (-20.0, 10, True)
    # a language model sees no image, half of the answers cannot be read, a run was never made: dashes, with reasons
    assert cells(found, "base")["pope"]["why"] == "mine: backbone was not asked pope"
    assert "too many answers of vlm to pope have no score (5)" in cells(found, "other")["pope"]["why"]
    assert all(cell["number"] is None for cell in cells(found, "never").values())
    assert cells(found, "never")["text"]["why"].startswith("no run ")


def test_a_mean_is_over_the_questions_of_all_its_parts(runs, capsys):
    found = made(capsys, LAYOUT, runs)
    both = cells(found, "tuned")["both"]["number"]
    assert (round(both["value"], 9), both["n"]) == (85.0, 20)  # of 90 and 80
    text, pope = (cells(found, "tuned")[name]["number"] for name in ("text", "pope"))
    widest = max(n["high"] - n["low"] for n in (text, pope))
    assert 0 < both["high"] - both["low"] < widest  # two samples err less than one
    assert cells(found, "other")["both"]["why"] == cells(found, "other")["pope"]["why"]  # lacks what a part lacks


def test_errors_of_parts_with_many_questions_are_added_and_are_those_that_draws_give(tmp_path, capsys):
    suites = {"pope": (0.8, 0.9), "text_instructions": (0.4, 0.5)}
    coin = random.Random(0)
    marks = {
        suite: {
            model: "".join("01"[coin.random() < p] for _ in range(2600))
            for model, p in zip(("vlm", "dpo"), ps, strict=True)
        }
        for suite, ps in suites.items()
    }
    run = write_run(tmp_path / "mine", marks)
    layout = """
columns: {text: {suite: text_instructions}, pope: {suite: pope}, both: {mean_of: [text, pope]}}
rows: {before: {run: mine}, after: {run: mine, model: dpo, minus: before}}
tables: {one: {columns: [text, pope, both], rows: [before, after]}}
"""
    row = cells(made(capsys, layout, tmp_path), "after")
    number, delta = row["both"]["number"], row["both"]["delta"]
    source = RunSource(read_run(str(run)))
    answers = [o for suite in suites for o in of_suite(source.outcomes("dpo", suite), suite)]
    measures = [only_suite(mean(name), s) for s, name in (("text_instructions", "headline"), ("pope", "accuracy"))]
    drawn = estimate(average("both", measures), answers, draws=500)
    assert number["value"] == pytest.approx(drawn.value)
    assert number["high"] - number["low"] == pytest.approx(drawn.high - drawn.low, rel=0.12)
    text, pope = (row[name]["delta"] for name in ("text", "pope"))
    assert delta["mean"] == pytest.approx((text["mean"] + pope["mean"]) / 2)
    widths = [d["high"] - d["low"] for d in (text, pope, delta)]
    assert widths[2] == pytest.approx((widths[0] ** 2 + widths[1] ** 2) ** 0.5 / 2)
    assert delta["p"] < 0.001 and delta["paired"] and number["n"] == delta["n"] == 5200


def test_nine_sets_and_not_two_averages(runs, capsys):
    """Halves of a set weigh half: MLAN's overall average (Table 1; Appendix C.1)."""
    layout = LAYOUT.replace(
        "  noisy:",
        "  half_1: {suite: pope, measure: f1, times: 100}\n  half_2: {suite: text_noisy_image, times: 100}\n"
        "  halves: {mean_of: [half_1, half_2]}\n  overall: {mean_of: [text, pope, halves]}\n  noisy:",
    ).replace("[text, pope, both, noisy]", "[half_1, half_2, halves, overall]")
    layout = re.sub(r"    (reference|printed):.*\n", "", layout)
    row = cells(made(capsys, layout, runs), "tuned")
    value = {name: cell["number"]["value"] for name, cell in row.items()}
    assert value["half_2"] == 30.0 and value["halves"] == pytest.approx((value["half_1"] + 30) / 2)
    assert value["overall"] == pytest.approx((90 + 80 + value["halves"]) / 3)


def test_a_drop_is_told_in_per_cent(runs, capsys):
    drop = cells(made(capsys, LAYOUT, runs), "tuned")["noisy"]["drop"]
    assert round(drop["mean"], 6) == round(100 * (30 / 90 - 1), 6)
    assert drop["to"] == "text" and drop["low"] < drop["mean"] < drop["high"] <= 0


# ------------------------------------------------------------------------------------------------- no number by itself

WHOLE = {"run": "r", "sha256": "ab", "model": "vlm", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}


@pytest.mark.parametrize("gone", ["run", "sha256", "model", "value", "low", "high", "n"])
def test_a_number_without_run_n_or_interval_is_none(gone):
    nothing = {"run": "", "sha256": "", "model": "", "n": 0}.get(gone, float("nan"))
    with pytest.raises(ValueError, match=f"a number without {gone} is not printed"):
        Number(**{**WHOLE, gone: nothing})
    with pytest.raises(ValueError, match=f"a number without .*{gone}.* is not printed"):
        number_of({name: value for name, value in WHOLE.items() if name != gone})


def test_bounds_hold_the_number_and_a_sample_is_never_certain():
    with pytest.raises(ValueError, match="outside of its bounds"):
        Number(**{**WHOLE, "value": 0.7})
    with pytest.raises(ValueError, match="a sample has bounds with a width"):
        Number(**{**WHOLE, "low": 0.5, "high": 0.5})


@pytest.mark.parametrize("gone", ["run", "low", "n"])
def test_no_page_is_drawn_of_json_with_a_bare_number(runs, capsys, gone):
    found = made(capsys, LAYOUT, runs)
    del cells(found, "tuned")["text"]["number"][gone]
    for render in (render_text, render_page):
        with pytest.raises(ValueError, match=f"a number without {gone} is not printed"):
            render(found)


def test_every_number_on_the_page_says_where_it_is_from(runs, tmp_path, capsys):
    found = made(capsys, LAYOUT, runs, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out/paper.json").read_text())["parts"] == found["parts"]
    page = (tmp_path / "out/paper.html").read_text(encoding="utf-8")
    printed = re.findall(r'<td title="([^"]*)"><b>([^<]+)</b>', page)
    assert len(printed) == len(list(numbers(found))) == 7
    for title, value in printed:
        assert re.match(r"run (mine|theirs) \(e{12}\), model \w+; 95% interval \[", title), title
        assert "n=" in title and re.fullmatch(r"\d+\.\d", value)
    # beside these only dashes stand in the table; the paper's numbers have their own, with its name over it
    ours, _, reference = page.partition("<h4>")
    body = ours.partition("<tbody>")[2]
    bare = [cell for cell in re.findall(r"<td[^>]*>([^<]*)</td>", body) if cell != "–"]
    assert bare == []
    assert reference.startswith("the paper&#x27;s own numbers, for reference: A Paper (arXiv:0000.00000)")
    assert "<td>65.4 (+19.6)</td>" in reference and "65.4" not in ours


# ------------------------------------------------------------------------------------------------- the paper's numbers


def test_reference_numbers_stay_apart_and_their_differences_are_taken_again(runs, capsys):
    part = made(capsys, LAYOUT, runs)["parts"][0]
    assert [row["key"] for row in part["reference"]["rows"]] == ["base", "tuned", "never"]
    tuned = part["reference"]["rows"][1]
    assert tuned["values"] == [65.4, 80.0, None, 60.0]
    assert [None if d is None else round(d, 1) for d in tuned["deltas"]] == [19.6, None, None, -8.3]
    # 19.6 is what the numbers give; 42.1 is within rounding of 42.2; −9.3% is not
    # the mean of 88.0 and 1.0 is not 2.0
    assert part["contradictions"] == [
        "MM-none, Avg.: the paper prints 2, its numbers give 44.50",
        "MM-ft, Noisy: the paper prints −9.3%, its numbers give −8.3%",
    ]
    # the same cells with and without them
    without = made(capsys, re.sub(r"    (reference|printed):.*\n", "", LAYOUT), runs)["parts"][0]
    assert without["rows"] == part["rows"] and without["reference"] is None


def test_the_terminal_shows_them_below(runs, capsys):
    (runs / "paper.yaml").write_text(LAYOUT, encoding="utf-8")
    assert main(["analyse", "paper", str(runs / "paper.yaml"), "--runs", str(runs)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Table 1"
    assert "MM-ft 90.0 (+40.0) 80.0 85.0 30.0 (−66.7%) mine vlm" in lines
    assert "MM-none – – – –" in lines and lines.index("[base]") < lines.index("[aligned]")
    assert "4 of 16 cells have no run behind them" in lines
    assert "mine: backbone was not asked pope, text_noisy_image" in lines
    at = lines.index("the paper's own numbers, for reference: A Paper (arXiv:0000.00000)")
    assert "MM-ft 65.4 (+19.6) 80.0 – 60.0 (−8.3%)" in lines[at:]


@pytest.mark.parametrize("said", ["paper: none\n", "paper: None\n", "paper: ''\n", ""])
def test_without_a_paper_no_numbers_are_its_own(runs, tmp_path, capsys, said):
    layout = LAYOUT.replace("paper: A Paper (arXiv:0000.00000)\n", said)
    found = made(capsys, layout, runs, "--out", tmp_path / "out")
    (part,) = found["parts"]
    assert (found["paper"], part["reference"], part["contradictions"]) == ("", None, [])
    page = (tmp_path / "out/paper.html").read_text(encoding="utf-8")
    for shown in (render_text(found), page):
        assert "for reference" not in shown and "65.4" not in shown
        assert "table_1: reference numbers are not shown: `paper` does not say whose they are" in shown
    assert "<h1>Tables and figures</h1>" in page


# ------------------------------------------------------------------------------------------------ where the runs lie


def test_a_folder_of_runs_that_is_not_there_is_refused(runs, tmp_path, capsys):
    path = runs / "paper.yaml"
    path.write_text(LAYOUT, encoding="utf-8")
    for wrong in (tmp_path / "nodir", path):  # nor is a file one
        assert main(["analyse", "paper", str(path), "--runs", str(wrong), "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr()
        assert f"{wrong}: no such folder" in told.err and told.out == ""
    assert not (tmp_path / "out/paper.json").exists()


def test_where_nothing_was_run_yet_it_says_how_to_begin(runs, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    path = tmp_path / "paper.yaml"
    path.write_text(LAYOUT, encoding="utf-8")
    assert main(["analyse", "paper", str(path)]) == 2
    assert "runs: no such folder: nothing was run yet; begin with `align run RECIPE`" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["analyse", "paper", str(path)]) == 0


# -------------------------------------------------------------------------------------------------------------- layout


def test_typos_are_refused_with_their_lines(runs, capsys):
    broken = (
        LAYOUT.replace("suite: pope, times", "suite: pop, times")
        .replace("mean_of: [text, pope]", "mean_of: [text, pop]")
        .replace("minus: tuned", "minus: tunde")
        .replace("65.4, 80.0, null, 60.0", "65.4, 80.0")
        .replace("{label: LM,", "{label: LM, scores: [a.json],")
    )
    said = refused(capsys, broken, runs)
    path = f"{runs / 'paper.yaml'}"
    for line in (
        f"{path}:5  columns.pope.suite: no suite 'pop'; did you mean 'pope'?",
        f"{path}:7  columns.both.mean_of: no column 'pop'; did you mean 'pope'?",
        f"{path}:10  rows.base: has run and scores; one of run, results, scores",
        f"{path}:12  rows.other.minus: no row 'tunde'; did you mean 'tuned'?",
        f"{path}:19  tables.table_1.reference.tuned: 2 numbers for 4 columns; null where the paper has none",
    ):
        assert line in said
    said = refused(capsys, LAYOUT.replace("    title:", "    titel:"), runs)
    assert f"{path}:16  tables.table_1.titel: unknown key; did you mean 'title'?" in said


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("mean_of: [text, pope]", "mean_of: [both]", "columns.both.mean_of: is a mean of itself"),
        ("mean_of: [text, pope]", "mean_of: [text, pope], times: 2", "a mean is of numbers on one scale"),
        ("suite: text_instructions", "label2: x, suite: text_instructions", "columns.text.label2: unknown key"),
        ("run: never-made", "model: vlm", "rows.never: says nothing of where its numbers are recorded"),
        ("model: backbone", 'model: "*step"', "a star stands at the end"),
        ("    title: Table 1", "    title: Table 1\n    draw: bars", "a table draws nothing; put it below figures"),
        ("[base, tuned, other, never]", "[base, tuned, other, nevr]", "no row 'nevr'; did you mean 'never'?"),
        ("tables:", "figures:", "a figure says what is drawn: draw"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, old, new, what):
    path = tmp_path / "paper.yaml"
    path.write_text(LAYOUT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_layout(path)
    assert what in str(error.value)


# ------------------------------------------------------------------------------------------------------------- figures

FIGURES = """
columns:
  text: {label: Text, suite: text_instructions, times: 100}
  pope: {label: POPE, suite: pope, times: 100}
rows:
  before: {label: LM, run: long, model: backbone, series: LLaMA2, at: 0}
  checkpoints: {label: MM-ft, run: long, model: step-*, series: LLaMA2, minus: before}
  after: {label: MM-ft, run: long, series: LLaMA2, at_end: true}
figures:
  bars: {draw: bars, dashed: before, columns: [text, pope], rows: [before, after]}
  curve: {draw: curve, over: steps, columns: [text], rows: [before, checkpoints, after]}
  scatter: {draw: correlation, columns: [text, pope], x: [text], y: [pope], rows: [checkpoints, after]}
  similar: {draw: histogram, file: diversity.json}
"""


def test_figures_of_bars_checkpoints_and_correlations(tmp_path, capsys):
    marks = {"vlm": "1111110000", "step-20": "1111111100", "step-3": "1111000000"}
    weights = SHA | {"step-3": "33" * 32, "step-20": "20" * 32}
    answers = {"text_instructions": {"backbone": "1100000000", **marks}, "pope": marks}
    run = write_run(tmp_path / "long", answers, weights=weights)
    (run / "instruct").mkdir()
    (run / "instruct/log.jsonl").write_text('{"step": 20, "loss": 1.0}\n{"step": 30, "loss": 0.5}\n')
    found = made(capsys, FIGURES, tmp_path, "--out", tmp_path / "out")
    curve = found["parts"][1]
    assert [(row["label"], row["at"]) for row in curve["rows"]] == [
        ("LM", 0), ("MM-ft, 3", 3), ("MM-ft, 20", 20), ("MM-ft", 30),
    ]  # fmt: skip
    (best,) = curve["best"]
    assert (best["series"], best["at"], best["of"], best["number"]["value"]) == ("LLaMA2", 20, 4, 80.0)
    panel = found["parts"][2]["correlations"]["panels"][0]
    assert (panel["n"], panel["r2"]) == (3, pytest.approx(1.0)) and panel["rows"][0] == "checkpoints 3"
    page = (tmp_path / "out/paper.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3 and "diversity.json: run `align analyse diversity`" in page
    assert "best of 4 points of LLaMA2 on Text: 20 (80.0)" in page


def test_checkpoints_that_were_not_evaluated_are_a_dash(runs, capsys):
    part = made(capsys, FIGURES.replace("run: long", "run: mine"), runs)["parts"][1]
    assert [row["key"] for row in part["rows"]] == ["before", "checkpoints", "after"]
    assert "no model 'step-*' was evaluated" in part["rows"][1]["cells"]["text"]["why"]
    assert part["rows"][2]["at"] is None  # no log says where it ended


# ----------------------------------------------------------------------------------------------- results from elsewhere

API = """
paper: Sight Beyond Text
columns:
  ethics: {suite: ethics, times: 100}
  bleu: {suite: truthfulqa_gen, measure: bleu_acc, times: 100}
  pope: {suite: pope, times: 100}
rows:
  text: {label: GPT-4-turbo, results: api/text}
  vision: {label: GPT-4V-turbo, results: api/vision, minus: text}
  scored: {label: GPT-4o, scores: [api/pope.json], minus: text}
tables:
  table_2: {columns: [ethics, bleu, pope], rows: [text, vision, scored]}
"""
PARTS = ("ethics_cm", "ethics_deontology", "ethics_justice", "ethics_utilitarianism", "ethics_virtue")


def lm_eval_folder(folder: Path, acc: str, bleu: str, *, samples: bool = True, errors: bool = True) -> Path:
    """As lm_eval 0.4 writes it below --output_path: one mark per question, the same for each part of Ethics."""
    folder = folder / "gpt"
    folder.mkdir(parents=True)
    marks = dict.fromkeys(PARTS, ("acc", acc)) | {"truthfulqa_gen": ("bleu_acc", bleu)}
    results, counts = {}, {}
    for task, (metric, row) in marks.items():
        share = row.count("1") / len(row)
        se = (share * (1 - share) / (len(row) - 1)) ** 0.5
        results[task] = {"alias": task, f"{metric},none": share, f"{metric}_stderr,none": se if errors else "N/A"}
        counts[task] = {"original": len(row), "effective": len(row)}
        lines = [
            {
                "doc_id": i,
                "filter": "none",
                "metrics": [metric],
                "doc_hash": f"{task} {i:03}" + 64 * "0",
                metric: int(m),
            }
            for i, m in enumerate(row)
        ]
        if samples:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"samples_{task}_2026-01-01T00-00-00.jsonl").write_text(text)
    found = {"results": results, "n-samples": counts, "model_name": "gpt-4-turbo"}
    path = folder / "results_2026-01-01T00-00-00.json"
    path.write_text(json.dumps(found))
    return path


def test_rows_of_lm_evals_own_files(tmp_path, capsys):
    lm_eval_folder(tmp_path / "api/text", "1111111000", "11110000")
    lm_eval_folder(tmp_path / "api/vision", "1111111110", "11100000")
    scored = {"benchmark": "pope", "metrics": [
        {"name": "accuracy", "value": 0.8, "low": 0.7, "high": 0.9, "n": 60, "n_failed": 1},
    ], "warnings": []}  # fmt: skip
    (tmp_path / "api/pope.json").write_text(json.dumps(scored))
    found = made(capsys, API, tmp_path)
    ethics = cells(found, "vision")["ethics"]
    assert (round(ethics["number"]["value"], 9), ethics["number"]["n"]) == (90.0, 50)  # the mean of five parts
    assert re.fullmatch(r"[0-9a-f]{64}", ethics["number"]["sha256"]) and ethics["number"]["model"] == "gpt-4-turbo"
    # joined question by question: two of ten in each of five parts are won
    assert (round(ethics["delta"]["mean"], 9), ethics["delta"]["n"], ethics["delta"]["paired"]) == (20.0, 50, True)
    assert round(cells(found, "vision")["bleu"]["delta"]["mean"], 9) == -12.5
    pope = cells(found, "scored")["pope"]["number"]
    assert (pope["value"], pope["low"], pope["n"], pope["n_failed"]) == (80.0, 70.0, 60, 1)
    assert "not scored on ethics" in cells(found, "scored")["ethics"]["why"]
    assert "lm-eval has no pope" in cells(found, "text")["pope"]["why"]


def test_without_samples_lm_evals_standard_errors_are_the_interval(tmp_path, capsys):
    lm_eval_folder(tmp_path / "api/text", "1111111000", "11110000", samples=False)
    lm_eval_folder(tmp_path / "api/vision", "1111111110", "11100000", samples=False)
    cell = cells(made(capsys, API, tmp_path), "vision")["bleu"]
    assert round(cell["number"]["high"] - cell["number"]["value"], 3) == round(
        100 * 1.959964 * (0.375 * 0.625 / 7) ** 0.5, 3
    )
    assert cell["delta"]["paired"] is False and cell["delta"]["low"] < -12.5 < cell["delta"]["high"]


def test_filters_are_kept_apart_and_subjects_weigh_by_their_questions(tmp_path, capsys):
    gsm = {"strict-match": [1, 0, 0, 0], "flexible-extract": [1, 1, 1, 0]}
    results = {"gsm8k": {}, "mmlu_anatomy": {"acc,none": 0.5, "acc_stderr,none": 0.1},
               "mmlu_virology": {"acc,none": 0.75, "acc_stderr,none": 0.2}}  # fmt: skip
    for name, values in gsm.items():
        results["gsm8k"] |= {f"exact_match,{name}": sum(values) / 4, f"exact_match_stderr,{name}": 0.2}
    counts = {"gsm8k": {"effective": 4}, "mmlu_anatomy": {"effective": 30}, "mmlu_virology": {"effective": 10}}
    (tmp_path / "results_1.json").write_text(json.dumps({"results": results, "n-samples": counts}))
    lines = [
        {"filter": name, "doc_hash": f"{i}" * 64, "exact_match": float(value)}
        for name, values in gsm.items()
        for i, value in enumerate(values)
    ]
    (tmp_path / "samples_gsm8k_1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    layout = """
columns: {strict: {suite: gsm8k}, flexible: {suite: gsm8k, measure: flexible}, mmlu: {suite: mmlu}}
rows: {api: {results: results_1.json}}
tables: {one: {columns: [strict, flexible, mmlu], rows: [api]}}
"""
    row = {name: cell["number"] for name, cell in cells(made(capsys, layout, tmp_path), "api").items()}
    assert [(row[name]["value"], row[name]["n"]) for name in row] == [(0.25, 4), (0.75, 4), (0.5625, 40)]
    se = ((0.75 * 0.1) ** 2 + (0.25 * 0.2) ** 2) ** 0.5
    assert row["mmlu"]["high"] - row["mmlu"]["value"] == pytest.approx(1.959964 * se)


def test_results_without_n_or_interval_are_refused(tmp_path, capsys):
    path = lm_eval_folder(tmp_path / "api/text", "1111111000", "11110000", samples=False, errors=False)
    said = refused(capsys, API, tmp_path)
    assert f"{path}: ethics_cm: acc,none has no standard error: no number is printed without n and interval" in said
    found = json.loads(path.read_text())
    del found["n-samples"]
    path.write_text(json.dumps(found))
    assert "no n (n-samples)" in refused(capsys, API, tmp_path)
    bare = {"benchmark": "pope", "metrics": [{"name": "accuracy", "value": 0.8, "n": 60, "n_failed": 0}]}
    (tmp_path / "api/pope.json").write_text(json.dumps(bare))
    only = API.replace("rows: [text, vision, scored]", "rows: [scored]").replace(", minus: text", "")
    assert "pope.json: accuracy has no low, no high: no number is printed" in refused(capsys, only, tmp_path)


def test_samples_of_another_call_are_refused(tmp_path, capsys):
    path = lm_eval_folder(tmp_path / "api/text", "1111111000", "11110000")
    sample = path.with_name("samples_ethics_cm_2026-01-01T00-00-00.jsonl")
    sample.write_text(sample.read_text().replace('"acc": 1', '"acc": 0', 1))
    assert "its mean acc is 0.600000, but results_2026-01-01T00-00-00.json says 0.700000" in refused(
        capsys, API, tmp_path
    )


# -------------------------------------------------------------------------------------------------------------- counts


def test_tokens_are_counts_and_their_differences_per_cent(tmp_path, capsys):
    """MLAN, Table 2: 14,939,955 tokens are 47.76% more than 10,110,681."""
    layout = """
columns: {tokens: {label: Tokens, count: tokens}, flops: {label: FLOPs, count: flops}}
rows:
  mlan: {run: mlan}
  mlan_v: {run: mlan_v, minus: mlan}
  llava: {run: llava, minus: mlan}
tables: {table_2: {columns: [tokens, flops], rows: [mlan, mlan_v, llava]}}
"""
    for name, tokens in (("mlan", 10_110_681), ("mlan_v", 14_939_955), ("llava", None)):
        run = write_run(tmp_path / name, {"pope": {"vlm": "10"}})
        if tokens:
            (run / "instruct").mkdir()
            (run / "instruct/tokens.json").write_text(json.dumps({"measured": {"rows": 80_000, "lm": tokens}}))
    found = made(capsys, layout, tmp_path)
    cell = cells(found, "mlan_v")["tokens"]
    assert (cell["number"]["value"], cell["number"]["n"], cell["number"]["exact"]) == (14_939_955, 80_000, True)
    assert round(cell["delta"]["mean"], 2) == 47.76
    assert cells(found, "mlan")["flops"]["why"].endswith(
        "mlan/instruct/tokens.json: holds no flops and rows that were measured"
    )
    assert cells(found, "llava")["tokens"]["why"] == "llava: no instruct/tokens.json"
    assert "14,939,955 (+47.76%)" in render_text(found)


TRAINED = """
columns:
  text: {suite: text_instructions}
  tokens: {count: tokens}
  flops: {count: flops}
  hours: {count: seconds, times: 0.000277778}
rows:
  before: {run: twice, model: backbone}
  checkpoints: {run: twice, model: step-*, minus: once}
  twice: {run: twice, minus: once}
  once: {run: once, minus: before}
tables: {one: {columns: [text, tokens, flops, hours], rows: [before, checkpoints, twice, once]}}
"""


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The same 100 rows of 1,000 tokens, read in one epoch and in two, as `instruct` leaves its counts."""
    marks = {"text_instructions": {name: "10" for name in ("backbone", "vlm", "step-3", "step-20")}}
    weights = SHA | {"step-3": "33" * 32, "step-20": "20" * 32}
    for name, epochs in (("once", 1), ("twice", 2)):
        run = write_run(tmp_path / name, marks, weights=weights, rows={"instruct": 100})
        told = {
            "rows_once": {"rows": 100, "lm": 1000},
            "epochs": float(epochs),
            "measured": {"rows": 100 * epochs, "lm": 1000 * epochs, "padded": 1200 * epochs},
            "flops_once": {"total": 6000},
            "flops": {"total": 6000 * epochs},
        }
        (run / "instruct/tokens.json").write_text(json.dumps(told))
        manifest = json.loads((run / "instruct/manifest.json").read_text()) | {"seconds": 3600.0 * epochs}
        (run / "instruct/manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_counts_are_of_the_model_that_instruct_made_and_of_no_other(trained, capsys):
    found = made(capsys, TRAINED, trained)
    why = "twice: what instruct took is told of vlm alone, the model that it made"
    for row in ("before", "checkpoints 3", "checkpoints 20"):
        for name in ("tokens", "flops", "hours"):
            cell = cells(found, row)[name]
            assert (cell["number"], cell["delta"], cell["why"]) == (None, None, why)
        assert cells(found, row)["text"]["number"]["n"] == 2  # its scores stay
    assert round(cells(found, "twice")["hours"]["number"]["value"], 3) == 2.0
    assert cells(found, "once")["tokens"]["delta"] is None  # nor is a difference taken to one of them
    assert cells(found, "once")["tokens"]["why_no_delta"] == why
    assert render_text(found).count(why) == 1  # below the table, once


def test_tokens_and_operations_are_both_of_all_epochs(trained, capsys):
    found = made(capsys, TRAINED, trained)
    for name, once in (("tokens", 1000), ("flops", 6000)):
        numbers_of = [cells(found, row)[name]["number"] for row in ("once", "twice")]
        assert [(number["value"], number["n"]) for number in numbers_of] == [(once, 100), (2 * once, 200)]
        assert cells(found, "twice")[name]["delta"]["mean"] == 100.0  # per cent more
    assert "tokens and FLOPs are all that `instruct` read, as it was measured: every epoch" in render_text(found)


# ------------------------------------------------------------------------------------------------- the shipped layouts

ROOT = Path(__file__).parent.parent
SIGHT, MLAN = ROOT / "recipes/sight_beyond_text/paper.yaml", ROOT / "recipes/mlan/paper.yaml"
DEMO = ROOT / "recipes/mlan/demo_paper.yaml"


def test_the_shipped_layouts_on_no_runs_are_all_dashes(tmp_path, capsys):
    for path, tables, figures in ((SIGHT, 6, 5), (MLAN, 4, 5), (DEMO, 1, 2)):
        assert main(["analyse", "paper", str(path), "--runs", str(tmp_path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        kinds = [part["kind"] for part in found["parts"]]
        assert (kinds.count("table"), kinds.count("figure")) == (tables, figures)
        assert list(numbers(found["parts"])) == []
        shown = [row["cells"] for part in found["parts"] for row in part["rows"]]
        assert shown and all(
            cell["why"].startswith("no run ") or "no /" in cell["why"] for c in shown for cell in c.values()
        )


def test_where_sight_beyond_text_contradicts_itself(tmp_path, capsys):
    main(["analyse", "paper", str(SIGHT), "--runs", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [said for part in found["parts"] for said in part["contradictions"]] == [
        "MM-LLaMA3-8B-ft, mc2: the paper prints −0.5, its numbers give +0.0",
        "GPT-4V-turbo (1201), Ethics: the paper prints +1.3, its numbers give +0.7",
        "MM-LLaMA2-chat-ft, SQuAD F1: the paper prints −9.3, its numbers give −9.9",
        "MM-LLaMA3-8B-ft, BoolQ: the paper prints −14.3, its numbers give −14.8",
        "MM-LLaMA3-8B-lora, MathQA: the paper prints −0.8, its numbers give +0.3",
    ]
    rows = {row["key"]: row for row in found["parts"][0]["reference"]["rows"]}
    # LoRA against full tuning on Ethics over the seven language models that have both: 7.2 (section 3.1)
    pairs = [(rows[k]["values"][0], rows[k.replace("-lora", "-ft")]["values"][0]) for k in rows if k.endswith("-lora")]
    assert len(pairs) == 7 and round(sum(ft - lora for lora, ft in pairs) / 7, 1) == 7.2
    groups = [row["group"] for row in found["parts"][0]["rows"]]
    assert groups == sorted(groups, reverse=True) and set(groups) == {"base LM", "aligned LM"}


def test_mlans_gains_and_tokens_follow_from_its_numbers(tmp_path, capsys):
    main(["analyse", "paper", str(MLAN), "--runs", str(tmp_path), "--json"])
    found = {part["key"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    table = found["table_1"]
    rows = {row["key"]: dict(zip([c["key"] for c in table["columns"]], row["deltas"], strict=True))
            for row in table["reference"]["rows"]}  # fmt: skip
    gain = {name: (rows["llama2-mlan"][name] + rows["vicuna-mlan"][name]) / 2 for name in ("overall", "lang", "vision")}
    assert gain == pytest.approx({"overall": 15.4, "lang": 19.05, "vision": 10.4})  # section 1: 15.4, 19.1, 10.4
    assert table["contradictions"] == []
    more = {row["key"]: row["deltas"][0] for row in found["table_2"]["reference"]["rows"]}
    assert [round(d, 2) for d in more.values() if d is not None] == [47.76, 191.22, 286.65, 358.53]
    assert found["table_2"]["contradictions"] == [
        "MLAN_v, Vicuna (50% vision), Tokens read: the paper prints +191.30%, its numbers give +191.22%"
    ]
