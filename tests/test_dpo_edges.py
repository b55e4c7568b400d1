"""DPO where it could go wrong: unusual losses, folders that two runs share, batches unlike each other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dpo_rig import LORA, draw_rows, row_of
from test_reference import HERE, asked, counted, silent
from tiny_llava import FolderContext, ask_about, run_stage, save_image

from align.context import PromptSet
from align.models.load import LoadedModel, load_vlm
from align.recipe import Recipe
from align.sample.stage import work as sample_work
from align.settings import Sample, Train
from align.train import dpo
from align.train.lora_rows import Size
from align.train.lora_run import Trained, train_lora
from align.train.reference import ReferenceCache
from align.train.sampled import read_sampled
from annotate.errors import UserError
from annotate.journal import Journal
from annotate.records import Completion, PreferencePair


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LoadedModel:
    return load_vlm(folder)


def one_step(folder: Path, root: Path, workspace: Path, **trl: Any) -> Trained:
    options = {"per_device_train_batch_size": 2, "max_steps": 1, "learning_rate": 1e-2}
    return train_lora(
        method="dpo",
        stage="dpo",
        rows=draw_rows(root, seed=4)[:4],
        model=folder,
        settings=Train(lora=LORA, trl=options | trl),
        seed=1,
        folder=workspace,
        progress=silent,
    )


# ---------------------------------------------------------------------------------------------------- the first step


@pytest.mark.parametrize(
    ("trl", "start"),
    [
        ({"use_weighting": True}, None),
        ({"loss_weights": [0.5]}, 0.5 * math.log(2)),
        ({"loss_type": ["sigmoid_norm", "robust"], "label_smoothing": 0.1}, 2 * math.log(2)),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}, None),
    ],
)
def test_losses_that_do_not_begin_at_ln_2_are_trained(
    folder: Path, root: Path, tmp_path: Path, trl: dict[str, Any], start: float | None
) -> None:
    made = one_step(folder, root, tmp_path, **trl)
    assert made.log[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert start is None or made.log[0]["loss"] == pytest.approx(start, abs=1e-6)


@pytest.mark.parametrize(
    ("trl", "told"),
    [
        ({"loss_type": "sigmoyd"}, "Unknown loss type: sigmoyd. Should be one of"),
        ({"neftune_noise_alpha": 5.0}, "dpo.trl.neftune_noise_alpha: noise would be in the policy and not in its ref"),
    ],
)
def test_what_cannot_be_trained_is_told_before_the_reference_is_computed(
    folder: Path, root: Path, tmp_path: Path, trl: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        one_step(folder, root, tmp_path, **trl)
    assert not (tmp_path / "reference").exists()


# ------------------------------------------------------------------------------------------- the reference's folder


def test_two_runs_with_one_folder_wait_for_each_other(vlm: LoadedModel, root: Path, tmp_path: Path) -> None:
    """Both have seen an empty folder; the second finds what the first has written in the meantime."""
    rows = [row_of(ask_about(text=f"q{i}"), root, "a", "b") for i in range(3)]
    first, second = ReferenceCache(tmp_path, HERE), ReferenceCache(tmp_path, HERE)
    scored: list[list[str]] = []
    notes: list[str] = []
    with Journal(first.path) as other:  # as another process that writes to the file

        def end(done: int, total: int, note: str = "") -> None:
            notes.append(note)
            if len(notes) == 2:
                other.__exit__(None, None, None)

        assert first.fill(asked(vlm, rows[:2]), counted(scored, vlm), size=2, progress=end) == 4
    assert notes == [f"waiting for another run, which writes to {first.path}"] * 2
    assert second.fill(asked(vlm, rows), counted(scored, vlm), size=2, progress=silent) == 2
    assert len(scored) == 3


def test_a_folder_that_cannot_be_written_to_is_told_of(vlm: LoadedModel, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot be kept there .Not a directory.; name another reference_folder"):
        ReferenceCache(tmp_path / "file", HERE)
    cache = ReferenceCache(tmp_path / "kept", HERE)
    (tmp_path / "kept").write_text("no folder either")
    with pytest.raises(UserError, match=r"cannot be kept there .*; name another reference_folder"):
        cache.fill(asked(vlm, [row_of(ask_about(text="q"), root, "a", "b")]), counted([], vlm), size=2, progress=silent)


# ---------------------------------------------------------------------------------------- what the sampler knows


def test_the_sampler_spares_the_pass_over_the_reference(folder: Path, root: Path, tmp_path: Path) -> None:
    """Completions of the model itself, read as they were sampled, and one from elsewhere: only that one is computed."""
    prompt = ask_about(save_image(root, "s.png", seed=1))
    prompt_set = PromptSet(prompts=(prompt,), failures=(), duplicates=0, root=root)
    sample = Sample(n=40, max_new_tokens=1, logprobs=True)
    train = Train(lora=LORA, trl={"per_device_train_batch_size": 4, "max_steps": 2, "learning_rate": 1e-2})
    recipe = Recipe(path=root / "r.yaml", seed=1, sample=sample, dpo=train)
    context = FolderContext(recipe=recipe, stage="sample", model=folder, prompt_set=prompt_set)
    sampled, _ = run_stage(sample_work(context), tmp_path / "sample")
    rows: Any = sampled.files["logprobs.jsonl"]
    path = tmp_path / "logprobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    completions: Any = sampled.files["completions.jsonl"]
    known = {row["completion_id"] for row in rows if "per_token" in row}
    better, worse = list({c.text: c for c in completions if c.id in known}.values())[:2]
    other = Completion.of(prompt_id=prompt.id, model="another", index=0, text="The 4 is blue.")
    pairs = [
        PreferencePair(id=said.text, prompt=prompt, chosen=better, rejected=said, margin=1.0, rule="test")
        for said in (worse, other)
    ]
    made = {}
    for name, settings in {"sampled": sample, "computed": replace(sample, logprobs=False)}.items():
        context = FolderContext(
            recipe=replace(recipe, sample=settings),
            stage="dpo",
            model=folder,
            prompt_set=prompt_set,
            inputs={("pairs", "preference.jsonl"): pairs},
            files={("sample", "logprobs.jsonl"): path},
        )
        work = dpo.work(context)
        compiled, _ = run_stage(work, tmp_path / name)
        (file,) = (tmp_path / name / "reference").iterdir()
        kept = [json.loads(line)["line"] for line in file.read_text().splitlines()[1:]]
        made[name] = (work.units[0].key, [json.loads(x) for x in str(compiled.files["log.jsonl"]).splitlines()], kept)
    (key, log, kept), (other_key, expected, all_kept) = made["sampled"], made["computed"]
    assert [len(line) for line in kept] == [1]
    assert sum(len(line) for line in all_kept) == 3
    assert key != other_key
    for step, same in zip(log, expected, strict=True):
        assert step == pytest.approx(same, rel=1e-4, abs=1e-4)


def test_numbers_of_another_model_or_number_of_tokens_are_not_taken(
    vlm: LoadedModel, root: Path, tmp_path: Path
) -> None:
    prompt = ask_about(text="Hi")
    a, b, c = (
        Completion.of(prompt_id=prompt.id, model=m, index=0, text=t) for m, t in (("m", "a"), ("x", "b"), ("m", "c"))
    )
    said = [PreferencePair(id="1", prompt=prompt, chosen=a, rejected=x, margin=1.0, rule="test") for x in (b, c)]
    rows = [{"completion_id": x.id, "model": x.model, "per_token": [-1.0, -2.0]} for x in (a, b)]
    rows.append({"completion_id": c.id, "model": "m", "left_out": "its text, read again, has other tokens"})
    path = tmp_path / "logprobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_sampled(path, said, model_sha256="m")
    assert {text: list(values) for (_, text), values in found.per_token.items()} == {"a": [-1.0, -2.0]}
    cache = ReferenceCache(tmp_path, HERE)
    row = row_of(prompt, root, "a", "b")
    cache.take([(row, Size(3, (3, 3)))], found)  # three tokens, not two
    assert cache.fill(asked(vlm, [row]), counted([], vlm), size=4, progress=silent) == 2
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"logprobs.jsonl:1: no line of log-probabilities; run `sample` again"):
        read_sampled(path, said, model_sha256="m")
