"""The same builders over batches of lines, in processes of other tools: the same rows as in this one."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from pair_groups import A, B, C, D, annotated
from ray_rows import rows_of

from align.pairs import Pairs
from align.pairs.batches import pairs_of_lines
from align.pairs.sets import Maker
from annotate.jsonl import write_records
from annotate.records import Example, Failure, PreferencePair

KINDS = {"preference": PreferencePair, "steerlm": Example, "rejection": Example, "failures": Failure}
HOW = {"settings": Pairs(rejected="worst", min_margin=3), "seed": 5}
ROWS = [annotated(f"Question {i}?", [A, B, C, D] if i % 3 else [A, B]) for i in range(60)]
LINES = [row.to_line().decode().removesuffix("\n") for row in ROWS]


def expected() -> Counter[tuple[str, str]]:
    made = pairs_of_lines({"line": LINES}, **HOW)
    return Counter(zip(made["set"], made["line"], strict=True))


def test_a_batch_holds_the_rows_of_all_sets():
    made = pairs_of_lines({"line": LINES[:2]}, **HOW)
    records = [KINDS[name].from_line(line.encode()) for name, line in zip(made["set"], made["line"], strict=True)]
    first, second = (Maker(**HOW)(row).sets for row in ROWS[:2])
    # of the first prompt no two are 3 apart: one failure, two examples for SteerLM, one of rejection sampling
    assert [type(r) for r in records] == [Failure] + [Example] * 3 + [PreferencePair] + [Example] * 5
    assert records == [r for made in (first, second) for rows in made.values() for r in rows]


def test_batches_of_any_size_give_the_same_rows():
    halves = [pairs_of_lines({"line": part}, **HOW) for part in (LINES[:17], LINES[17:])]
    assert Counter((n, ln) for half in halves for n, ln in zip(half["set"], half["line"], strict=True)) == expected()


def test_datasets_map_with_two_processes():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"line": LINES}).map(
        pairs_of_lines, fn_kwargs=HOW, batched=True, batch_size=8, num_proc=2, remove_columns=["line"]
    )
    assert Counter(zip(rows["set"], rows["line"], strict=True)) == expected()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_ray_map_batches_with_two_workers(tmp_path: Path):
    write_records(tmp_path / "annotated.jsonl", ROWS)
    rows = rows_of(
        """
import ray
from align.pairs import Pairs
from align.pairs.batches import pairs_of_lines

lines = ray.data.read_text("annotated.jsonl").rename_columns({"text": "line"}).repartition(2)
how = {"settings": Pairs(rejected="worst", min_margin=3), "seed": 5}
rows = lines.map_batches(pairs_of_lines, fn_kwargs=how, batch_size=8, concurrency=2)
""",
        tmp_path,
    )
    assert Counter((row["set"], row["line"]) for row in rows) == expected()
