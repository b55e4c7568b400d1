"""`align score alpaca_eval`: annotations of pairs, with and without the length."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from align.benchmarks.alpaca_eval_files import fit_logistic
from align.cli import main


def annotation(question: int, preference: float | None, *, baseline: str = "Short.", answer: str = "Longer.") -> dict:
    return {
        "instruction": f"Question {question}",
        "output_1": baseline,
        "generator_1": "text_davinci_003",
        "output_2": answer,
        "generator_2": "m",
        "annotator": "alpaca_eval_gpt4",
        "preference": preference,
    }


def usual() -> list[dict]:
    """Three wins, of them one by a probability, a tie of each spelling, and a loss."""
    return [annotation(i, preference) for i, preference in enumerate((2, 2.0, 1.75, 1.5, 0.0, 1))]


def write(path: Path, value: object) -> str:
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def score(tmp_path: Path, capsys, *files: list[dict], more: tuple[str, ...] = ()) -> tuple[dict, str]:
    paths = [write(tmp_path / f"annotations{i}.json", rows) for i, rows in enumerate(files, 1)]
    assert main(["score", "alpaca_eval", "--json", "--draws", "200", "--judgments", *paths, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    return {m["name"]: m for m in found["metrics"]}, "\n".join(found["warnings"])


def refused(tmp_path: Path, capsys, rows: object) -> str:
    assert main(["score", "alpaca_eval", "--judgments", write(tmp_path / "annotations.json", rows)]) == 2
    return capsys.readouterr().err


def test_the_win_rate_its_error_and_the_lengths(tmp_path, capsys):
    metrics, warnings = score(tmp_path, capsys, usual())
    wins = [1, 1, 0.75, 0.5, 0.5, 0]
    assert metrics["win_rate"]["value"] == pytest.approx(100 * 3.75 / 6)
    assert metrics["discrete_win_rate"]["value"] == pytest.approx(100 * (3 + 0.5 + 0.5) / 6)
    assert metrics["standard_error"]["value"] == pytest.approx(100 * np.std(wins, ddof=1) / 6**0.5)
    assert (metrics["answer_chars"]["value"], metrics["baseline_chars"]["value"]) == (7.0, 6.0)
    assert (metrics["win_rate"]["n"], metrics["win_rate"]["n_failed"]) == (6, 0)
    assert "alpaca_eval_gpt4 judges m against text_davinci_003" in warnings
    assert "6 of AlpacaEval's 805 instructions" in warnings
    assert "the published one also has each instruction's difficulty" in warnings


def test_a_failed_judge_is_no_tie(tmp_path, capsys):
    rows = [annotation(i, preference) for i, preference in enumerate((2, 2, 2, 2, None, float("nan"), -1, "x", True))]
    metrics, warnings = score(tmp_path, capsys, rows, more=("--least-coverage", "0.4"))
    assert (metrics["win_rate"]["value"], metrics["win_rate"]["n"], metrics["win_rate"]["n_failed"]) == (100.0, 4, 5)
    assert "3 of 9 preferences are neither 0 nor from 1 to 2" in warnings
    metrics, warnings = score(tmp_path, capsys, [annotation(i, None) for i in range(4)])
    assert {m["value"] for name, m in metrics.items() if "chars" not in name} == {None}
    assert "win_rate: no number: 4 of 4 answers have no score" in warnings


def test_several_files_are_runs_of_the_judge_and_repeats_count_once(tmp_path, capsys):
    won = [row | {"preference": 2} for row in usual()]
    metrics, warnings = score(tmp_path, capsys, usual(), [*won, annotation(0, 1)])
    assert metrics["win_rate"]["value"] == pytest.approx((100 * 3.75 / 6 + 100 * 5 / 6) / 2)
    assert metrics["judge_sd"]["value"] == pytest.approx(100 * (5 - 3.75) / 6 / 2**0.5)
    assert "1 of 13 annotations came again; the last one counts" in warnings


def simulated(model: float, length: float, n: int = 3000) -> list[dict]:
    """Preferences of a judge that likes length: logit = length * tanh(difference / sd) + model."""
    rng = np.random.default_rng(7)
    baseline, answer = (rng.integers(low, low + 400, n) for low in (100, 250))
    shorter = (baseline - answer) / np.std(baseline - answer, ddof=1)
    share = 1 / (1 + np.exp(-(length * np.tanh(shorter) + model)))
    won = rng.random(n) < share
    return [annotation(i, 1.0 + won[i], baseline="x" * baseline[i], answer="y" * answer[i]) for i in range(n)]


def test_a_pure_effect_of_length_is_taken_out(tmp_path, capsys):
    metrics, _ = score(tmp_path, capsys, simulated(model=0.0, length=-2.0))
    assert metrics["win_rate"]["low"] > 68
    assert metrics["length_controlled_win_rate"]["value"] == pytest.approx(50, abs=4)


def test_a_better_model_stays_better_and_no_effect_of_length_changes_nothing(tmp_path, capsys):
    metrics, _ = score(tmp_path, capsys, simulated(model=1.0, length=-2.0))
    assert metrics["length_controlled_win_rate"]["value"] == pytest.approx(73.1, abs=4)  # 1 / (1 + 1/e)
    metrics, _ = score(tmp_path, capsys, simulated(model=0.5, length=0.0))
    assert metrics["length_controlled_win_rate"]["value"] == pytest.approx(metrics["win_rate"]["value"], abs=3)


def test_the_interval_of_one_step_is_that_of_fitting_each_resample(tmp_path, capsys):
    rows = simulated(model=0.0, length=-1.0, n=400)
    metrics, _ = score(tmp_path, capsys, rows, more=("--draws", "2000"))
    shorter = np.array([len(row["output_1"]) - len(row["output_2"]) for row in rows], dtype=float)
    x = np.stack([np.tanh(shorter / shorter.std(ddof=1)), np.ones(400)], axis=1)
    won = np.array([row["preference"] - 1 for row in rows])
    rng = np.random.default_rng(0)
    fits = [fit_logistic(x[i], won[i])[1] for i in (rng.integers(0, 400, 400) for _ in range(400))]
    low, high = 100 / (1 + np.exp(-np.quantile(fits, (0.025, 0.975))))
    assert metrics["length_controlled_win_rate"]["low"] == pytest.approx(low, abs=1.5)
    assert metrics["length_controlled_win_rate"]["high"] == pytest.approx(high, abs=1.5)


def test_answers_of_one_length_and_a_model_that_always_wins(tmp_path, capsys):
    metrics, _ = score(tmp_path, capsys, [annotation(i, 1 + (i < 12)) for i in range(20)])
    assert metrics["length_controlled_win_rate"]["value"] == pytest.approx(60, abs=0.1)
    metrics, _ = score(tmp_path, capsys, [annotation(i, 2, answer="y" * i) for i in range(20)])
    assert 95 < metrics["length_controlled_win_rate"]["value"] <= 100


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"annotator": "weighted"}, "`annotator`: more than one judge: 'weighted'"),
        ({"generator_1": "gpt4_turbo"}, "`generator_1`: more than one baseline: 'gpt4_turbo'"),
        ({"generator_2": "n"}, "`generator_2`: more than one model: 'n'"),
        ({"output_2": None}, "annotations.json:1: `output_2`: expected text"),
    ],
)
def test_a_bad_row_and_a_mixture_are_refused(tmp_path, capsys, fields, said):
    rows = usual()
    rows[0] |= fields
    assert said in refused(tmp_path, capsys, rows)


def test_a_row_without_a_preference_is_refused(tmp_path, capsys):
    rows = usual()
    del rows[0]["preference"]
    assert "annotations.json:1: no field `preference`" in refused(tmp_path, capsys, rows)


def test_answers_without_names_are_said(tmp_path, capsys):
    rows = [{k: v for k, v in row.items() if not k.startswith("generator")} for row in usual()]
    metrics, warnings = score(tmp_path, capsys, rows)
    assert metrics["win_rate"]["n"] == 6
    assert "alpaca_eval_gpt4 judges a model without a name against one without a name" in warnings


def test_other_files_are_refused(tmp_path, capsys):
    assert "no annotation in it" in refused(tmp_path, capsys, [])
    outputs = [{"instruction": "Why?", "output": "Because.", "generator": "m"}]
    assert "annotations.json:1: no field `preference`; it has instruction" in refused(tmp_path, capsys, outputs)
    (tmp_path / "page.json").write_text("<html>502</html>")
    assert main(["score", "alpaca_eval", "--judgments", str(tmp_path / "page.json")]) == 2
    assert "page.json:1" in capsys.readouterr().err
