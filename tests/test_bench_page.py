"""bench/results_page.py: what benchmarks print becomes the page, or nothing does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = [sys.executable, str(ROOT / "bench" / "results_page.py")]
LINE = {
    "bench": "sorting",
    "peer": "bubbles",
    "ratio": 5.0,
    "bound": 8.0,
    "max_rel_diff": 0.0,
    "ours": {},
    "theirs": {},
    "machine": "abacus",
}


def script(folder: Path, name: str, line: dict[str, Any], code: int = 0) -> str:
    path = folder / name
    path.write_text(f"import sys\nprint('warming up')\nprint({json.dumps(line)!r})\nsys.exit({code})\n")
    return str(path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PAGE, *arguments], capture_output=True, text=True, check=False)


def table(page: Path) -> list[str]:
    """Rows of the table of ratios."""
    text = page.read_text().split("| what | command |")[0]
    return [row for row in text.splitlines() if row.startswith("| ")][1:]


def test_each_case_and_peer_is_a_row_and_other_scripts_keep_theirs(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "pairs.md").write_text("# Pairs\n")
    cases = [
        {"case": "few", "ratio": 2.0, "bound": 4.0, "max_rel_diff": 3e-7},
        {"case": "many", "against": {"a": {"ratio": 6.0, "bound": 4.0}, "b": {"ratio": 1.5}}, "rel_diff_loss": 2e-6},
    ]
    one = script(tmp_path, "one.py", LINE)
    several = script(tmp_path, "several.py", LINE | {"bench": "adding", "cases": cases})
    mute = tmp_path / "mute.py"
    mute.write_text("print('0.3 s')\n")
    done = run(one, several, str(mute), "--out", str(page))
    assert done.returncode == 0, done.stderr
    assert "warming up" in done.stdout and "0.3 s" in done.stdout
    assert table(page) == [
        "| sorting | bubbles | 5.00 | 8.00 | 62% | none |",
        "| adding: few | bubbles | 2.00 | 4.00 | 50% | 3e-07 |",
        "| adding: many | a | 6.00 | 4.00 | 150% | 2e-06 |",
        "| adding: many | b | 1.50 |  |  | 2e-06 |",
    ]
    assert "[results/pairs.md](results/pairs.md)" in page.read_text()
    assert page.read_text().count("abacus") == 2
    script(tmp_path, "one.py", LINE | {"ratio": 6.0})
    assert run(one, "--out", str(page)).returncode == 0
    assert table(page)[0] == "| sorting | bubbles | 6.00 | 8.00 | 75% | none |"
    assert len(table(page)) == 4


def test_a_script_that_fails_or_says_too_little_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    good = script(tmp_path, "good.py", LINE)
    failing = script(tmp_path, "failing.py", LINE, code=1)
    done = run(good, failing, "--out", str(page))
    assert done.returncode == 1
    assert "failing.py failed (1); nothing is written" in done.stderr
    poor = script(tmp_path, "poor.py", {key: LINE[key] for key in LINE if key != "bound"})
    assert "the last line lacks bound" in run(good, poor, "--out", str(page)).stderr
    assert not page.exists() and not (tmp_path / "results").exists()
    done = run("--quick")
    assert done.returncode == 2 and "say --out" in done.stderr


@pytest.mark.slow
def test_the_quick_sampling_benchmark_gives_a_row(tmp_path: Path) -> None:
    """Same tokens as `generate`, and a bound that is a count: it is the same each time."""
    page = tmp_path / "quick.md"
    done = run("bench/bench_sampling.py", "--quick", "--out", str(page))
    assert done.returncode == 0, done.stderr
    (row,) = table(page)
    _, what, peer, _, bound, _, differs, _ = (cell.strip() for cell in row.split("|"))
    assert (what, bound, differs) == ("sampling 2 prompts x 4 x 8", "3.69", "none")
    assert peer == "transformers generate(num_return_sequences=4)"
    (line,) = (json.loads(text) for text in (tmp_path / "results" / "lines.jsonl").read_text().splitlines())
    assert set(line) == {"command", *LINE}
    # keys and values: 4 rows of prompt and answer, or one of the prompt and 4 answers
    width = 576 + 67
    assert line["theirs"]["kv_MB"] / line["ours"]["kv_MB"] == pytest.approx(4 * (width + 8) / (width + 32), rel=0.03)
