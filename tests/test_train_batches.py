"""Batches of one kind and of like length: no row is lost, no process gets another kind, a kill changes nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from tiny_llava import ask_about, save_image

from align.settings import Lora, Train
from align.train.batches import Batches
from align.train.lora_rows import TrainRow
from align.train.lora_run import train_lora
from annotate.errors import UserError


def test_nine_rows_by_eight_are_five_and_four() -> None:
    """The last step of an epoch does not hang on one row."""
    plan = Batches(kinds=[True] * 9, size=8, seed=0)
    assert sorted(len(batch) for batch in plan) == [4, 5]
    assert sorted(row for batch in plan for row in batch) == list(range(9))


def test_images_and_text_never_share_a_batch() -> None:
    kinds = [True, False, True, True, False, True, True]
    plan = Batches(kinds=kinds, size=2, seed=3)
    assert len(plan) == 4
    for epoch in range(5):
        plan.epoch = epoch
        batches = list(plan)
        assert sorted(len(batch) for batch in batches) == [1, 2, 2, 2]
        assert all(len({kinds[row] for row in batch}) == 1 for batch in batches)
        assert sorted(row for batch in batches for row in batch) == list(range(7))


def test_rows_of_like_length_share_a_batch_and_batches_come_in_any_order() -> None:
    tokens = [10, 300, 11, 301, 12, 302, 13, 303]
    plan = Batches(kinds=[True] * 8, tokens=tokens, size=2, seed=1)
    seen = set()
    for epoch in range(8):
        plan.epoch = epoch
        assert all(abs(tokens[a] - tokens[b]) < 10 for a, b in plan)
        seen.add(tuple(tokens[batch[0]] > 100 for batch in plan))
    assert len(seen) > 3  # not the short ones first


def test_padding_falls_with_length_groups() -> None:
    """Tokens computed of 512 rows of 600 to 999 by 8, against those that are there."""
    tokens = [600 + (i * 7919) % 400 for i in range(512)]

    def padded(plan: Batches) -> int:
        return sum(len(batch) * max(tokens[row] for row in batch) for batch in plan)

    as_drawn = padded(Batches(kinds=[True] * 512, size=8, seed=0)) / sum(tokens)
    grouped = padded(Batches(kinds=[True] * 512, tokens=tokens, size=8, seed=0)) / sum(tokens)
    assert as_drawn > 1.15
    assert grouped < 1.02


@given(
    kinds=st.lists(st.booleans(), min_size=1, max_size=60),
    size=st.integers(1, 5),
    processes=st.integers(1, 4),
    grouped=st.booleans(),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_every_process_gets_as_many_batches_of_the_same_kinds(
    kinds: list[bool], size: int, processes: int, grouped: bool, seed: int, epoch: int
) -> None:
    """Through accelerate's own sharding."""
    tokens = [(n * 37) % 11 for n in range(len(kinds))] if grouped else None

    def plan() -> Batches:
        made = Batches(kinds=kinds, tokens=tokens, size=size, processes=processes, seed=seed)
        made.epoch = epoch
        return made

    ranks = [list(BatchSamplerShard(plan(), processes, rank)) for rank in range(processes)]
    assert {len(batches) for batches in ranks} == {len(plan()) // processes}
    for step in zip(*ranks, strict=True):
        assert len({kinds[row] for batch in step for row in batch}) == 1
    batches = [batch for batches in ranks for batch in batches]
    assert all(1 <= len(batch) <= size for batch in batches)
    # each once, but where a step's batches are more than the rows that are left for them
    counts = Counter(row for batch in batches for row in batch)
    assert set(counts) == set(range(len(kinds)))
    assert counts.total() - len(kinds) == plan().repeated
    if size > 1:
        assert plan().repeated <= 2 * processes
    if all(kinds.count(kind) >= processes for kind in kinds) and size > 1:
        assert plan().repeated == 0
    for kind in set(kinds):
        sizes = [len(batch) for batch in batches if kinds[batch[0]] == kind]
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == processes * math.ceil(kinds.count(kind) / (size * processes))


# --------------------------------------------------------------------------------------------------------- trainings


def rows_of_both_kinds(root: Path, n_images: int, n_text: int) -> list[TrainRow]:
    """One sort after the other, of many lengths."""
    prompts = [
        ask_about(save_image(root, f"b{i}.png", seed=i), text=f"Is it {i}?" * (1 + i % 4)) for i in range(n_images)
    ]
    prompts += [ask_about(text=f"Name fruit {i}" * (1 + i % 3)) for i in range(n_text)]
    return [
        TrainRow(
            id=p.id, prompt=p, images=tuple(root / image.path for image in p.images), completions=(f"The {i} is it.",)
        )
        for i, p in enumerate(prompts)
    ]


def train(
    model: Path,
    root: Path,
    folder: Path,
    *,
    steps: int,
    batch_size: int = 2,
    counts: tuple[int, int] = (7, 5),
    dropout: float = 0.2,
    **options: Any,
) -> Any:
    """With a constant rate, so that a training of 8 steps begins as one of 10 does."""
    trl = {"per_device_train_batch_size": batch_size, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    return train_lora(
        method="sft",
        stage="sft",
        rows=rows_of_both_kinds(root, *counts),
        model=model,
        settings=Train(
            lora=Lora(r=4, alpha=8, dropout=dropout),
            checkpoint_every=4,
            **{"batches": "unimodal", "group_by_length": True, **options, "trl": trl | {"max_steps": steps}},
        ),
        seed=2,
        folder=folder,
        progress=lambda done, total, note="": None,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def weights(made: Any) -> bytes:
    return (made.adapter / "adapter_model.safetensors").read_bytes()


def test_a_training_in_batches_of_one_kind_resumes_in_the_second_epoch(
    folder: Path, root: Path, tmp_path: Path
) -> None:
    """An epoch is 4 steps of images and 3 of text; checkpoint 8 lies in the second."""
    whole = train(folder, root, tmp_path / "whole", steps=10)
    assert whole.notes == {"batches": "of rows with images or of text alone, of rows of like length"}
    assert whole.log[6]["epoch"] == 1.0
    train(folder, root, tmp_path / "twice", steps=8)
    resumed = train(folder, root, tmp_path / "twice", steps=10)
    assert weights(resumed) == weights(whole)
    assert [entry["loss"] for entry in resumed.log] == [entry["loss"] for entry in whole.log]


def test_what_would_leave_rows_out_is_refused(folder: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trl.dataloader_drop_last: .* leave no row out"):
        train_lora(
            method="sft",
            stage="sft",
            rows=rows_of_both_kinds(root, 2, 2),
            model=folder,
            settings=Train(batches="unimodal", trl={"dataloader_drop_last": True}),
            seed=0,
            folder=tmp_path / "out",
            progress=lambda done, total, note="": None,
        )


TRAIN_IN_A_PROCESS = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_train_batches import train
model, root, folder = (Path(p) for p in sys.argv[2:5])
train(model, root, folder, steps=int(sys.argv[5]), batch_size=1, counts=(8, 6), dropout=0.0)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_resume_in_the_second_epoch(
    folder: Path, root: Path, tmp_path: Path
) -> None:
    """One row on each of two are two on one: a process that had gone another way would show in the loss."""
    (tmp_path / "train.py").write_text(TRAIN_IN_A_PROCESS)
    here = Path(__file__).parent

    def together(out: Path, steps: int) -> list[dict[str, Any]]:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "train.py"]
        ended = subprocess.run(
            [sys.executable, *map(str, [*launch, here, folder, root, out, steps])],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"PYTHONPATH": str(here.parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        assert ended.returncode == 0, ended.stderr[-2000:]
        state = json.loads((out / f"checkpoint-{steps}" / "trainer_state.json").read_text())
        return list(state["log_history"])

    together(tmp_path / "twice", steps=8)
    resumed = together(tmp_path / "twice", steps=12)
    alone = train(folder, root, tmp_path / "alone", steps=12, counts=(8, 6), dropout=0.0)
    for name in ("loss", "grad_norm"):
        assert [e[name] for e in resumed] == pytest.approx([e[name] for e in alone.log], rel=1e-4), name


LEAVE_ONE_OUT = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_train_batches import rows_of_both_kinds
from align.settings import Train
from align.train.lora_run import train_lora
from annotate.errors import UserError
model, root, folder = (Path(p) for p in sys.argv[2:5])
rows = rows_of_both_kinds(root, 3, 2)[int(os.environ["RANK"]):]
try:
    train_lora(method="sft", stage="sft", rows=rows, model=model, settings=Train(trl={"max_steps": 1}), seed=0,
               folder=folder, progress=lambda done, total, note="": None)
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_processes_that_found_unlike_rows_train_nothing(folder: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LEAVE_ONE_OUT)
    here = Path(__file__).parent
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "train.py"]
    ended = subprocess.run(
        [sys.executable, *map(str, [*launch, here, folder, root, tmp_path / "out"])],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(here.parent), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.count("sft: the processes found unlike rows to train on (process 0: 5, process 1: 4)") == 2
    assert not list((tmp_path / "out").glob("checkpoint-*"))
