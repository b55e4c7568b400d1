"""Instruction mixes: exact counts, nested budgets, rows drawn again, what evaluation sets ask; and the preview."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.cli import main
from align.digest import file_sha256
from align.mix.build import EXAMPLES, MANIFEST
from align.mix.plan import Mix, Pool, Source, load_mix, quotas
from annotate.errors import UserError
from annotate.jsonl import read_records, write_records
from annotate.records import Example, Image, Prompt, Turn

ROOT = Path(__file__).parents[1]
SETS = {  # name: rows, task, modality
    "squad": (60, "qa", "text"),
    "cosmosqa": (40, "qa", "text"),
    "arc": (5, "commonsense", "text"),
    "vqav2": (30, "qa", "vision"),
    "aokvqa": (3, "commonsense", "vision"),
}


def prompt(name: str, i: int, *, image: bool = False) -> Prompt:
    images = (Image(path=f"{i}.jpg", sha256=hashlib.sha256(b"%d" % i).hexdigest()),) if image else ()
    text = f"{'<image>' if image else ''}What does {name} ask in row {i} of its file?"
    turn = Turn(role="user", text=text, images=images)
    return Prompt.of((turn,), source=name, source_id=str(i), reference=f"answer {i}", meta={"task": "short_answer"})


def world(folder: Path, *keys: str, order: int = 0) -> Path:
    """The sets, each row of a file in an order of its own, and a mix of them."""
    lines = [*keys, "sources:"]
    for name, (n, task, modality) in SETS.items():
        rows = [prompt(name, i, image=modality == "vision") for i in range(n)]
        random.Random(order).shuffle(rows)
        write_records(folder / f"{name}.jsonl", rows)
        lines.append(f"  - {{file: {folder}/{name}.jsonl, task: {task}, dataset: {name}, modality: {modality}}}")
    path = folder / "mix.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def mixed(path: Path, *arguments: str, out: str = "out") -> tuple[list[Example], dict]:
    folder = path.parent / out
    assert main(["mix", str(path), str(folder), "-q", *arguments]) == 0
    return list(read_records(folder / EXAMPLES, Example)), json.loads((folder / MANIFEST).read_text())


def datasets(examples: list[Example]) -> Counter[str]:
    return Counter(example.meta["dataset"] for example in examples)


def drawn(examples: list[Example]) -> Counter[tuple[str, int]]:
    """The rows of a mix, by the prompts that they were made of."""
    return Counter((example.meta["row"], example.meta.get("copy", 0)) for example in examples)


# ---------------------------------------------------------------------------------------------------------- the counts


def test_counts_are_exact_and_the_manifest_says_them(tmp_path: Path) -> None:
    path = world(tmp_path, "budget: 80", "vision_percent: 25")
    examples, manifest = mixed(path)
    # 60 of text: 30 qa (15 + 15), 30 commonsense, all of arc, which has 5; 20 of vision: 10 and 10
    assert datasets(examples) == {"squad": 15, "cosmosqa": 15, "arc": 30, "vqav2": 10, "aokvqa": 10}
    counts = manifest["counts"]
    assert counts["rows"] == 80 and counts["by_modality"] == {"text": 60, "vision": 20}
    assert counts["by_task"] == {"qa": 40, "commonsense": 40} and counts["repeats"] == 25 + 7
    arc = next(one for one in counts["datasets"] if one["dataset"] == "arc")
    assert (arc["quota"], arc["read"], arc["drawn"], arc["repeats"]) == (30, 5, 5, 25)
    assert arc["most_often"] == max(Counter(e.meta["row"] for e in examples if e.meta["dataset"] == "arc").values())
    assert len({example.id for example in examples}) == 80  # also those of rows that came again
    assert sum(bool(example.prompt.images) for example in examples) == 20
    assert manifest["output"]["sha256"] == file_sha256(tmp_path / "out" / EXAMPLES)
    assert [one["sha256"] for one in manifest["inputs"]] == [file_sha256(tmp_path / f"{name}.jsonl") for name in SETS]


def test_the_order_of_rows_does_not_matter_and_the_seed_does(tmp_path: Path) -> None:
    path = world(tmp_path, "budget: 80", "vision_percent: 25")
    mixed(path)
    first = (tmp_path / "out" / EXAMPLES).read_bytes()
    world(tmp_path, "budget: 80", "vision_percent: 25", order=1)
    mixed(path)
    assert (tmp_path / "out" / EXAMPLES).read_bytes() == first
    mixed(path, "seed=1")
    assert (tmp_path / "out" / EXAMPLES).read_bytes() != first


@pytest.mark.parametrize("short", ["fill", "evenly"])
def test_a_smaller_budget_is_a_subset_of_a_larger_one(tmp_path: Path, short: str) -> None:
    path = world(tmp_path, f"short: {short}", "vision_percent: 37.5", "budget: 1")
    smaller: Counter[tuple[str, int]] = Counter()
    for budget in (10, 20, 21, 47, 80, 160):
        examples, _ = mixed(path, f"budget={budget}")
        larger = drawn(examples)
        assert larger.total() == budget and not smaller - larger
        smaller = larger
    if short == "evenly":  # 160 rows: 50 of arc's 5 are wanted, ten times each
        times = Counter(example.meta["row"] for example in examples if example.meta["dataset"] == "arc")
        assert set(times.values()) == {10}


def test_a_percentage_in_any_step(tmp_path: Path) -> None:
    path = world(tmp_path, "budget: 16")
    for eighths in range(9):
        examples, _ = mixed(path, f"vision_percent={eighths * 12.5}")
        assert sum(bool(example.prompt.images) for example in examples) == 2 * eighths


@given(
    budget=st.integers(1, 5000),
    percent=st.integers(0, 1000).map(lambda n: n / 10),
    seed=st.integers(0, 99),
    divide=st.sampled_from(["tasks", "datasets"]),
)
@settings(max_examples=200, deadline=None)
def test_quotas_sum_up_are_even_and_only_grow(budget: int, percent: float, seed: int, divide: str) -> None:
    sources = tuple(
        Source(file="f", task=task, dataset=name, modality=modality)  # type: ignore[arg-type]
        for name, (_, task, modality) in SETS.items()
    )
    plans = [
        quotas(Mix(budget=n, vision_percent=percent, seed=seed, divide=divide, sources=sources))  # type: ignore[arg-type]
        for n in (budget, budget + 1)
    ]
    assert [sum(plan.values()) for plan in plans] == [budget, budget + 1]
    assert all(plans[1][pool] >= rows for pool, rows in plans[0].items())
    text = [rows for pool, rows in plans[0].items() if pool.modality == "text" and pool.task == "qa"]
    assert max(text) - min(text) <= 1
    vision = sum(rows for pool, rows in plans[0].items() if pool.modality == "vision")
    assert abs(vision - budget * percent / 100) <= 0.5 + 1e-9


def test_the_presets_are_the_papers_mixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((ROOT / "recipes/mlan").glob("mix_*.yaml"))
    names = ("squad", "cosmosqa", "strategyqa", "commonsenseqa", "arc", "vqav2", "aokvqa")
    monkeypatch.chdir(tmp_path)
    Path("data/prompts").mkdir(parents=True)
    for name in names:
        Path(f"data/prompts/{name}.jsonl").touch()
    shares = {}
    for path in paths:
        plan = quotas(load_mix(path))
        assert sum(plan.values()) == 80_000 and {pool.dataset for pool in plan} == set(names)
        shares[path.stem] = sum(rows for pool, rows in plan.items() if pool.modality == "vision")
    # MLAN, Appendix B: no images; 12.5% and 50%; and the baselines with 6% and 25% language
    assert shares == {
        "mix_mlan": 0, "mix_mlan_v_llama2": 10_000, "mix_mlan_v_vicuna": 40_000, "mix_llava_6": 75_200,
        "mix_cambrian_25": 60_000,
    }  # fmt: skip
    language = quotas(load_mix(ROOT / "recipes/mlan/mix_mlan.yaml"))
    assert language[Pool("text", "question_answering", "squad")] == 20_000
    assert sorted(rows for pool, rows in language.items() if pool.task == "commonsense") == [0, 13_333, 13_333, 13_334]


# ----------------------------------------------------------------------------------------------- rows that are not used


def test_copies_rows_without_answer_and_of_the_other_modality(tmp_path: Path) -> None:
    path = world(tmp_path, "budget: 6", "short: error")
    odd = [prompt("squad", 1), prompt("squad", 1), prompt("squad", 2), prompt("squad", 9, image=True)]
    odd += [Prompt.of((Turn(role="user", text="Unanswered?"),), source="squad")]
    write_records(tmp_path / "squad.jsonl", odd)
    _, manifest = mixed(path, "budget=8")  # 2 of squad
    squad = next(one for one in manifest["counts"]["datasets"] if one["dataset"] == "squad")
    assert (squad["read"], squad["other_modality"], squad["copies"], squad["drawn"]) == (5, 1, 1, 2)
    assert squad["left_out"] == {"unusable: no answer: reference is empty": 1}


def test_examples_are_mixed_as_they_are(tmp_path: Path) -> None:
    path = world(tmp_path, "budget: 4")
    rows = [Example.of(prompt=prompt("squad", i), completion=f"said {i}", source="teacher") for i in range(9)]
    write_records(tmp_path / "squad.jsonl", rows)
    (squad,) = [example for example in mixed(path)[0] if example.meta["dataset"] == "squad"]
    assert (squad.prompt, squad.completion) in [(row.prompt, row.completion) for row in rows]
    assert squad.meta == {"dataset": "squad", "task": "qa", "modality": "text"}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["mix", *arguments]) == 2
    return capsys.readouterr().err


def test_too_few_rows_and_bad_rows_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = world(tmp_path, "budget: 80", "short: error")
    out = tmp_path / "out"
    assert "arc (text, commonsense): 40 rows are wanted, there are 5" in refused(capsys, str(path), str(out))
    (tmp_path / "arc.jsonl").write_text('{"schema":"prompt/1","id":"0"}\n{"a": 1}\nno json\n')
    said = refused(capsys, str(path), str(out))
    assert all(f"arc.jsonl:{line}: " in said for line in (1, 2, 3))
    (tmp_path / "arc.jsonl").write_text("")
    assert "nothing can be drawn" in refused(capsys, str(path), str(out), "short=fill")
    assert not out.exists()


def test_every_fault_of_the_file_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(
        "budget: 0\nvision_percent: 120\nshort: bootstrap\ntemplates: {choise: text}\nsources:\n"
        "  - {file: nowhere.jsonl, task: qa, modality: image}\n"
    )
    said = refused(capsys, str(path), str(tmp_path / "out")).splitlines()
    assert [line.removeprefix(str(path)).split("; ")[0] for line in said] == [
        ":1  budget: 0 is impossible",
        ":2  vision_percent: 120.0 is impossible",
        ":3  short: text 'bootstrap' is none of fill, evenly, error",
        ":4  templates.choise: unknown key",
        ":6  sources.0.modality: text 'image' is none of text, vision",
        ":6  sources.0.dataset: is missing",
        ":6  sources.0.file: nowhere.jsonl: no such file",
    ]
    path.write_text("vision_percent: 0\nsources:\n  - {file: mix.json, task: qa, dataset: a, modality: vision}\n")
    assert ":1  vision_percent: 80,000 rows of text are wanted, and no source has" in refused(capsys, str(path), "out")
    good = world(tmp_path, "budget: 8")
    text = "\n".join(line for line in good.read_text().splitlines() if "vision" not in line)
    good.write_text(text + "\n")
    assert "2 rows of vision are wanted" in refused(capsys, str(good), "--dry-run", "vision_percent=25")
    assert "say to which folder" in refused(capsys, str(good))
    assert "--leave-out: of what?" in refused(capsys, str(good), "out", "--leave-out")


# ------------------------------------------------------------------------------------------------------------- hygiene


def test_rows_that_an_evaluation_set_asks_are_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world(tmp_path, "budget: 120", "divide: datasets", "vision_percent: 25")
    asked = [prompt("squad", i) for i in range(12)] + [prompt("vqav2", i, image=True) for i in range(3)]
    asked += [prompt("vqav2", 40, image=True)]  # no row asks it
    write_records(tmp_path / "exam.jsonl", asked)
    against = ("--against", f"exam={tmp_path}/exam.jsonl")
    examples, manifest = mixed(path, *against)
    (found,) = manifest["against"]
    rows = {example.meta["row"] for example in examples}
    leaked = sum(question.id in rows for question in asked)
    assert leaked > 5 and found["leaked"] == {"value": round(leaked / 16, 4), "n": 16} and not found["left_out"]

    clean, manifest = mixed(path, *against, "--leave-out", out="clean")
    assert not {example.meta["row"] for example in clean} & {question.id for question in asked}
    assert datasets(clean) == datasets(examples)  # others were drawn for them
    assert manifest["against"][0]["leaked"]["value"] == 0.0
    assert sum(one["left_out"].get("asked by exam", 0) for one in manifest["counts"]["datasets"]) >= leaked
    assert "ok exam: 0 of 16 questions are asked in the mix" in capsys.readouterr().out


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = world(tmp_path, "budget: 80", "vision_percent: 25")
    before = sorted(tmp_path.iterdir())
    assert main(["mix", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "text    commonsense  arc         30          5        25   5         0" in said
    assert "mix: 80 rows: 60 text, 20 vision; 32 repeats; seed 0" in said
    assert sorted(tmp_path.iterdir()) == before


# ------------------------------------------------------------------------------------------------------------- preview


def test_the_preview_shows_rows_and_reads_every_target_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples, _ = mixed(world(tmp_path, "budget: 40", "vision_percent: 50"))
    capsys.readouterr()
    assert main(["preview", str(tmp_path / "out"), "-n", "3"]) == 0
    said = capsys.readouterr().out
    assert said.count("── ") == 3 and "the direct answer is: answer " in said and "(read as: answer " in said
    assert "40 rows; 40 targets state an answer, 0.00% of them cannot be read back" in said
    broken = [
        *examples[:3],
        Example.of(prompt=examples[3].prompt, completion="a\nb", source="x", meta=examples[3].meta),
    ]
    write_records(tmp_path / "broken.jsonl", broken)
    assert main(["preview", str(tmp_path / "broken.jsonl"), "-n", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["rows"], result["unread"], result["failure_rate"]) == (4, 1, 0.25)
    assert main(["preview", str(tmp_path / "out"), "--dataset", "race"]) == 2


def test_a_mix_is_what_the_other_verbs_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed(world(tmp_path, "budget: 20"))
    capsys.readouterr()
    assert main(["validate", str(tmp_path / "out" / EXAMPLES)]) == 0
    assert "20 examples (mmalign); faults: 0" in capsys.readouterr().out


def test_sources_that_give_nothing_are_not_read(tmp_path: Path) -> None:
    path = world(tmp_path, "budget: 20")
    (tmp_path / "vqav2.jsonl").unlink()
    (tmp_path / "aokvqa.jsonl").write_text("not read")
    _, manifest = mixed(path)
    assert [Path(one["file"]).stem for one in manifest["inputs"]] == ["squad", "cosmosqa", "arc"]


def test_load_mix_takes_changes(tmp_path: Path) -> None:
    path = world(tmp_path, "budget: 8")
    mix = load_mix(path, ["budget=9", "templates.choice=letter", "vision_percent=12.5"])
    assert (mix.budget, mix.templates.choice, mix.vision_percent, mix.name) == (9, "letter", 12.5, "mix")
    with pytest.raises(UserError, match="command line  budgte: unknown key; did you mean 'budget'"):
        load_mix(path, ["budgte=9"])
