"""Steps of text alone leave what only sees images as it is, to the bit; one kind may come first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_train import stage_context
from test_train_batches import rows_of_both_kinds
from torch.nn.modules.module import register_module_full_backward_hook
from transformers import PrinterCallback, Trainer, TrainingArguments

from align.models.load import load_vlm
from align.settings import Lora, Parts, Train
from align.train import rejection
from align.train.batches import Batches
from align.train.lora_rows import TrainRow, as_dataset, collate_examples
from align.train.lora_run import check_options, train_lora
from align.train.parts import choose, part_of
from annotate.errors import UserError
from annotate.records import Example

HERE = Path(__file__).parent

# ------------------------------------------------------------------------------------------------------------- the plan


@given(
    kinds=st.lists(st.booleans(), min_size=1, max_size=40),
    size=st.integers(1, 5),
    processes=st.integers(1, 4),
    epochs=st.integers(1, 3),
    vision=st.booleans(),
    grouped=st.booleans(),
)
def test_one_kind_comes_first_on_every_process(
    kinds: list[bool], size: int, processes: int, epochs: int, vision: bool, grouped: bool
) -> None:
    """All its epochs, each with every row of it; through accelerate's own sharding."""
    plan = Batches(
        kinds=kinds,
        tokens=[n % 7 for n in range(len(kinds))] if grouped else None,
        size=size,
        processes=processes,
        seed=1,
        order="vision_first" if vision else "language_first",
    )
    plan.taken = epochs * plan.steps
    seen: list[list[list[int]]] = []  # step -> process -> rows
    for epoch in range(epochs):
        plan.epoch = epoch
        ranks = [list(BatchSamplerShard(plan, processes, rank)) for rank in range(processes)]
        assert {len(batches) for batches in ranks} == {plan.steps}
        seen += [list(step) for step in zip(*ranks, strict=True)]
    shown = [{kinds[row] for batch in step for row in batch} for step in seen]
    assert all(len(kind) == 1 for kind in shown)
    order = [kind.pop() for kind in shown]
    assert order == sorted(order, reverse=vision)
    counts = Counter(row for step in seen for batch in step for row in batch)
    assert set(counts) == set(range(len(kinds)))
    assert min(counts.values()) >= epochs
    assert counts.total() == epochs * (len(kinds) + plan.repeated)


def test_a_short_training_is_cut_in_the_same_shares() -> None:
    """Of 6 steps of text and 3 of images the first 6 are 4 and 2, not text alone; so are the first 15, 10 and 5."""
    kinds = [False] * 12 + [True] * 6
    for taken, border in ((6, 4), (15, 10)):
        plan = Batches(kinds=kinds, size=2, seed=0, order="language_first")
        plan.taken = taken
        assert (plan.steps, plan.border) == (9, border)


@pytest.mark.parametrize("order", ["random", "vision_first"])
@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(("processes", "counts"), [(1, (7, 5)), (2, (9, 1)), (3, (11, 7)), (4, (2, 13))])
def test_odd_sizes_accumulated_on_one_to_four_processes(
    processes: int, counts: tuple[int, int], at_once: int, order: Any
) -> None:
    """Batches as the trainer takes them, so many at once: as many steps everywhere, and no batch of two kinds."""
    kinds = [True] * counts[0] + [False] * counts[1]
    plan = Batches(kinds=kinds, size=2, processes=processes, seed=4, order=order)
    plan.taken = 2 * plan.steps
    ranks: list[list[list[list[int]]]] = []
    for rank in range(processes):
        batches = iter(BatchSamplerShard(plan, processes, rank))
        taken = []
        while step := [batch for _, batch in zip(range(at_once), batches, strict=False)]:
            taken.append(step)
        ranks.append(taken)
    assert len({tuple(len(step) for step in taken) for taken in ranks}) == 1
    for steps in zip(*ranks, strict=True):
        for at_a_time in zip(*steps, strict=True):
            assert len({kinds[row] for batch in at_a_time for row in batch}) == 1


# ------------------------------------------------------------------------------------------- what a step of text leaves


def questions(root: Path, n_images: int, n_text: int, answers: int = 1) -> list[TrainRow]:
    """Rows with images and of text alone, each question with so many answers."""
    root.mkdir(exist_ok=True)
    rows = rows_of_both_kinds(root, n_images, n_text)
    return [
        TrainRow(
            id=f"{row.id}/{n}",
            prompt=row.prompt,
            images=row.images,
            completions=(f"{row.completions[0]} {'No. ' * n}",),
        )
        for row in rows
        for n in range(answers)
    ]


def train(model: Path, rows: Sequence[TrainRow], folder: Path, told: list[int] | None = None, **options: Any) -> Any:
    trl = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    trl |= {"weight_decay": 0.1, "num_train_epochs": 1}
    settings = {"lora": Lora(r=4, alpha=8, dropout=0.0), "checkpoint_every": 2, "order": "vision_first", **options}
    return train_lora(
        method="sft",
        stage="sft",
        rows=rows,
        model=model,
        settings=Train(**settings | {"trl": trl | options.get("trl", {})}),
        seed=2,
        folder=folder,
        progress=lambda done, total, note="": None if told is None else told.append(done),
    )


def held(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[int, dict[str, torch.Tensor]]]:
    """Weights by name; moments and steps of what learns, by its number in the optimizer."""
    file = next(checkpoint / name for name in FILES if (checkpoint / name).is_file())
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert all(state.keys() == {"step", "exp_avg", "exp_avg_sq"} for state in optimizer["state"].values())
    return load_file(file), optimizer["state"]


FILES = ("adapter_model.safetensors", "weights.safetensors")


def assert_only_language_learnt(before: Path, after: Path) -> None:
    """Between two checkpoints, bit by bit: neither weights nor moments nor counted steps of the projector."""
    (weights, states), (weights_after, states_after) = held(before), held(after)
    assert weights.keys() == weights_after.keys()
    moved = {name for name in weights if not torch.equal(weights[name], weights_after[name])}
    projector = {name for name in weights if part_of(name) == "projector"}
    assert len(projector) == N_PROJECTOR
    assert moved == {name for name in weights if part_of(name) == "language"}
    same = [n for n, state in states.items() if all(torch.equal(v, states_after[n][k]) for k, v in state.items())]
    shapes = sorted(tuple(weights[name].shape) for name in projector)
    assert sorted(tuple(states[n]["exp_avg"].shape) for n in same) == shapes
    assert all(float(states[n]["step"]) == 2 and states[n]["exp_avg"].abs().max() > 0 for n in same)
    assert all(float(states_after[n]["step"]) == 4 for n in states_after if n not in same)


N_PROJECTOR = 4


WHOLE = Parts(language="full", projector="full")
BESIDE = Parts(projector="full", projector_learning_rate=1e-3)
TWICE = {"gradient_accumulation_steps": 2}
STEPS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "full": ({"parts": WHOLE}, (4, 4, 1)),
    "lora": ({"parts": BESIDE}, (4, 4, 1)),
    "full, accumulated": ({"parts": WHOLE, "trl": TWICE}, (8, 8, 1)),
    "lora, accumulated and clipped": ({"parts": BESIDE, "trl": TWICE | {"max_grad_norm": 0.01}}, (8, 8, 1)),
    "full, checkpointing": ({"parts": WHOLE, "trl": {"gradient_checkpointing": True}}, (4, 4, 1)),
    "lora, checkpointing": ({"parts": BESIDE, "trl": {"gradient_checkpointing": True}}, (4, 4, 1)),
    "full, shared": ({"parts": WHOLE, "batch_by": "prompts"}, (4, 4, 2)),
}
"""Two steps of images, then two of text: options, and questions with images, of text alone, answers of each."""


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_text_leaves_the_projector_and_its_momentum(folder: Path, tmp_path: Path, name: str) -> None:
    """With decay of weights, and momentum from the steps of images before."""
    options, counts = STEPS[name]
    made = train(folder, questions(tmp_path / "images", *counts), tmp_path / "out", **options)
    assert made.notes["batches"] == "of rows with images or of text alone, images first"
    assert_only_language_learnt(tmp_path / "out/checkpoint-2", tmp_path / "out/checkpoint-4")


def weights_of(made: Any) -> bytes:
    return bytes((made.adapter / "adapter_model.safetensors").read_bytes())


def test_a_kill_before_or_behind_the_border_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """Two epochs of five steps of text, then two of two of images: from checkpoint 8 and 12 of 14, with dropout."""
    rows = questions(tmp_path / "images", 3, 9)
    how: dict[str, Any] = {"order": "language_first", "lora": Lora(r=4, alpha=8, dropout=0.2), "parts": BESIDE}
    how |= {"trl": {"num_train_epochs": 2}}
    made: dict[int, Any] = {}
    uncut: dict[int, bytes] = {}
    for at in (8, 12):
        out = tmp_path / f"from-{at}"
        made[at] = train(folder, rows, out, checkpoint_every=at, **how)
        uncut[at] = weights_of(made[at])
        shutil.rmtree(out / "checkpoint-14")
        (out / "checkpoint-14.done").unlink()
        shutil.rmtree(out / "adapter")
        assert (out / f"checkpoint-{at}.done").is_file()
        told: list[int] = []
        resumed = train(folder, rows, out, checkpoint_every=at, told=told, **how)
        assert told == list(range(at + 1, 15))
        assert resumed.log == made[8].log
        assert weights_of(resumed) == uncut[at]
    assert uncut[8] == uncut[12]


# ------------------------------------------------------------------------------------------------------ what is refused


def test_an_order_of_mixed_batches_is_refused() -> None:
    with pytest.raises(UserError, match=r"dpo.order: vision_first needs batches of one kind; batches: unimodal, or"):
        check_options(Train(order="vision_first", batches="mixed"), "dpo", "dpo")


def test_rows_that_no_trained_part_sees_are_refused(folder: Path, tmp_path: Path) -> None:
    rows = questions(tmp_path / "images", 1, 2)
    with pytest.raises(UserError, match=r"sft: 2 row\(s\) of text alone, e.g. .*, teach nothing where the language"):
        train(folder, rows, tmp_path / "out", parts=Parts(language="frozen", projector="full"))


def test_only_a_recipe_that_asks_for_an_order_has_another_key(folder: Path, tmp_path: Path) -> None:
    """Runs from before there was one stay valid."""
    (tmp_path / "images").mkdir()
    prompts = [row.prompt for row in rows_of_both_kinds(tmp_path / "images", 1, 1)]
    examples = {
        ("pairs", "rejection.jsonl"): [Example.of(prompt=p, completion="It is.", source="rejection") for p in prompts]
    }

    def key(settings: Train) -> str:
        context = stage_context(folder, tmp_path / "images", prompts, "rejection", settings, inputs=examples)
        return rejection.work(context).units[0].key

    assert key(Train()) == key(Train(order="random"))
    assert len({key(Train(batches="unimodal", order=o)) for o in ("random", "language_first", "vision_first")}) == 3


# -------------------------------------------------------------------------------------------------- the connector alone


def passes_backwards(train_it: Callable[[], Any]) -> int:
    """How often a module of the vision tower is passed backwards."""
    passed: list[str] = []
    hook = register_module_full_backward_hook(
        lambda module, *gradients: passed.append("tower") if type(module).__name__.startswith("CLIP") else None
    )
    try:
        train_it()
    finally:
        hook.remove()
    return len(passed)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_connector_alone_costs_no_pass_backwards_through_the_tower(
    folder: Path, tmp_path: Path, checkpointing: bool
) -> None:
    rows = questions(tmp_path / "images", 6, 0)
    trl = {"gradient_checkpointing": checkpointing}
    alone = Parts(language="frozen", projector="full")
    assert passes_backwards(lambda: train(folder, rows, tmp_path / "out", parts=alone, order="random", trl=trl)) == 0
    if not checkpointing:
        with_tower = Parts(language="frozen", projector="full", tower="full")
        # the hooks would tell
        assert passes_backwards(lambda: train(folder, rows, tmp_path / "more", parts=with_tower, order="random")) > 0


def test_the_connector_alone_learns_as_with_a_plain_trainer(folder: Path, tmp_path: Path) -> None:
    """Transformers' Trainer scores every token, we those that have labels."""
    rows = questions(tmp_path / "images", 7, 0)
    ours = train(folder, rows, tmp_path / "ours", parts=Parts(language="frozen", projector="full"), order="random")
    loaded = load_vlm(folder)
    choose(loaded.model, Parts(language="frozen", projector="full"))
    args = TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        seed=2,
        use_cpu=True,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        per_device_train_batch_size=2,
        num_train_epochs=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        weight_decay=0.1,
    )
    theirs = Trainer(
        model=loaded.model,
        args=args,
        train_dataset=as_dataset(rows),
        data_collator=collate_examples(rows, loaded.encoder),
    )
    theirs.remove_callback(PrinterCallback)
    theirs.train()
    logged = [entry for entry in theirs.state.log_history if "loss" in entry]
    assert len(logged) == 4
    for name in ("loss", "grad_norm"):
        assert [e[name] for e in ours.log] == pytest.approx([e[name] for e in logged], rel=1e-5)


# -------------------------------------------------------------------------------------------------------- two processes

TOGETHER = """
import json, os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_unimodal import MIXED, STEPS, questions, train
model, out, names = Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
for number, (options, (with_images, of_text, answers)) in enumerate(STEPS[name] for name in names):
    rows = questions(out / "images", 2 * with_images, 2 * of_text, answers)
    train(model, rows, out / str(number), **options)

seen, towers = [], []
def note(module, given):
    if isinstance(module, torch.nn.Embedding) and given[0].dtype == torch.long and module.num_embeddings > 300:
        seen.append(given[0].tolist())
    towers.extend([len(seen)] * (type(module).__name__ == "CLIPVisionModel"))
torch.nn.modules.module.register_module_forward_pre_hook(note)
train(model, questions(out / "images", 9, 6), out / "mixed", order="random", **MIXED)
(out / f"seen-{os.environ['RANK']}.json").write_text(json.dumps({"seen": seen, "towers": towers}))
"""
MIXED: dict[str, Any] = {
    "batches": "unimodal",
    "parts": WHOLE,
    "trl": {"gradient_accumulation_steps": 3, "num_train_epochs": 2},
}


def two_processes(config: str, script: Path, *arguments: object) -> None:
    launch = ["--config_file", HERE.parent / "recipes/accelerate" / config, "--num_processes", 2, script, HERE]
    ended = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *map(str, [*launch, *arguments])],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_leave_the_projector_in_steps_of_text_and_never_mix(folder: Path, tmp_path: Path) -> None:
    """DDP; then 9 rows with images and 6 of text, three batches a step, two epochs: what each process was shown."""
    (tmp_path / "train.py").write_text(TOGETHER)
    names = ("full, accumulated", "lora, accumulated and clipped", "lora, checkpointing")
    two_processes("ddp.yaml", tmp_path / "train.py", folder, tmp_path, *names)
    for number in range(len(names)):
        out = tmp_path / str(number)
        assert_only_language_learnt(out / "checkpoint-2", out / "checkpoint-4")

    image = json.loads((folder / "config.json").read_text())["image_token_index"]
    noted = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    shown: list[list[set[bool]]] = []
    for process in noted:
        shown.append([{image in ids for ids in batch} for batch in process["seen"]])
        with_images = [n + 1 for n, kinds in enumerate(shown[-1]) if kinds == {True}]
        assert sorted(process["towers"]) == with_images  # and never for text
    rehearsed, *batches = zip(*shown, strict=True)  # as many on both
    assert rehearsed == ({True}, {True})
    assert len(batches) == 2 * (3 + 2)
    assert all(kinds in (({True}, {True}), ({False}, {False})) for kinds in batches)
    rows = Counter(str([t for t in ids if t]) for process in noted for batch in process["seen"][1:] for ids in batch)
    assert len(rows) == 15
    assert set(rows.values()) == {2}


SPREAD = """
import os, shutil, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_unimodal import WHOLE, questions, train
model, out = Path(sys.argv[2]), Path(sys.argv[3])
rows = questions(out / "images", 8, 8)
train(model, rows, out / "vision_first", parts=WHOLE)
train(model, rows, out / "uncut", parts=WHOLE, order="language_first")
if os.environ["RANK"] == "0":
    shutil.copytree(out / "uncut", out / "cut", ignore=shutil.ignore_patterns("checkpoint-4*", "model"))
torch.distributed.barrier()
told = []
train(model, rows, out / "cut", parts=WHOLE, order="language_first", told=told)
assert told == ([3, 4] if os.environ["RANK"] == "0" else [])
"""


@pytest.mark.slow
def test_a_model_spread_by_fsdp_leaves_the_projector_too_and_goes_on_before_it_was_ever_reached(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(SPREAD)
    two_processes("fsdp2.yaml", tmp_path / "train.py", folder, tmp_path)

    def checkpoint(name: str) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = torch.load(tmp_path / name / "pytorch_model_fsdp.bin", weights_only=True)
        states = torch.load(tmp_path / name / "optimizer.bin", weights_only=True)["state"]
        return found | {f"{key} of {of}": value for of, state in states.items() for key, value in state.items()}

    def moved(one: str, other: str) -> set[str]:
        before, after = checkpoint(one), checkpoint(other)
        assert before.keys() == after.keys()
        return {part_of(name.split(" ")[-1]) for name in before if not torch.equal(before[name], after[name])}

    assert moved("vision_first/checkpoint-2", "vision_first/checkpoint-4") == {"language"}
    assert moved("uncut/checkpoint-2", "uncut/checkpoint-4") == {"language", "projector"}
    assert moved("cut/checkpoint-4", "uncut/checkpoint-4") == set()
    steps = {part_of(n.split(" ")[-1]): float(v) for n, v in checkpoint("uncut/checkpoint-4").items() if "step of" in n}
    assert steps == {"language": 4, "projector": 2}
