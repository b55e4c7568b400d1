"""What a training says it put through its model: as planned, but for padding; the same after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tiny_llava import ask_about, save_image

from align.models.lengths import Lengths
from align.settings import Lora, Parts, Train
from align.train.counted import account, asked_of, count, notes_of
from align.train.lora_rows import TrainRow
from align.train.lora_run import Trained, train_lora
from align.train.preflight import look_ahead

FULL = Parts(language="full", projector="full")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[TrainRow]:
    """Three with an image, the second of them with two, and four of text; no two of one length."""
    root = tmp_path_factory.mktemp("pictures")
    made = []
    for i in range(7):
        images = [save_image(root, f"{i}{k}.png", seed=i + k) for k in range((1, 2, 1, 0, 0, 0, 0)[i])]
        prompt = ask_about(*images, text="Which digit is blue? " * (i + 1))
        paths = tuple(root / image.path for image in images)
        made.append(TrainRow(id=f"r{i}", prompt=prompt, images=paths, completions=("The 4." * (1 + i % 3),)))
    return made


def train(
    folder: Path, rows: list[TrainRow], out: Path, *, told: Callable[[int], None] | None = None, **more: Any
) -> Trained:
    trl = {"per_device_train_batch_size": 2, "learning_rate": 1e-3, "num_train_epochs": 2, **more.pop("trl", {})}
    settings = {"lora": Lora(r=4, alpha=8, dropout=0.0), "checkpoint_every": 2, "batches": "unimodal", **more}
    return train_lora(
        method="sft",
        stage="instruct",
        rows=rows,
        model=folder,
        settings=Train(trl=trl, **settings),
        seed=3,
        folder=out,
        progress=lambda done, total, note="": told(done) if told else None,
    )


@pytest.mark.parametrize("parts", [FULL, Parts()], ids=["full", "lora"])
def test_what_was_read_is_what_was_planned_but_for_padding(
    folder: Path, rows: list[TrainRow], tmp_path: Path, parts: Parts
) -> None:
    made = train(folder, rows, tmp_path, parts=parts, trl={"gradient_accumulation_steps": 2})
    assert made.measured is not None
    once = count(asked_of(rows), Lengths(look_ahead(folder).encoder)).tokens
    read = made.measured.tokens
    twice = once + once
    assert (read.rows, read.with_images, read.images, read.views) == (14, 6, 8, 8)
    assert {**asdict(read), "padded": None} == asdict(twice)
    assert read.padded is not None and read.padded > read.lm  # rows of two lengths stood in a batch
    assert read.image == 8 * 9
    # batches of 2 + 1 rows with images, in each of two epochs; those of text never ran the tower
    assert (made.measured.tower_calls, made.measured.tower_calls_of_text) == (4, 0)
    assert made.measured.seconds > 0

    told = account(folder, Train(parts=parts), rows, made.measured, made.log)
    assert told["epochs"] == 2.0
    assert told["rows_once"] == asdict(once)
    assert {key: told["measured"][key] for key in ("lm", "tower_calls")} == {"lm": twice.lm, "tower_calls": 4}
    assert told["flops"]["total"] == 2 * told["flops_once"]["total"]
    assert notes_of(told)["vision tower"] == "4 calls, 0 of them in batches of text; 8 pictures"


def test_padding_is_counted_by_hand(folder: Path, rows: list[TrainRow], tmp_path: Path) -> None:
    """All three rows with images in one batch: as wide as the longest."""
    seen = rows[:3]
    made = train(folder, seen, tmp_path, trl={"per_device_train_batch_size": 3, "max_steps": 1})
    sizes = [found.tokens for found in Lengths(look_ahead(folder).encoder).measure(list(asked_of(seen)))]  # type: ignore[union-attr]
    assert made.measured is not None
    assert made.measured.tokens.lm == sum(sizes)
    assert made.measured.tokens.padded == 3 * max(sizes)
    assert made.measured.tokens.squared == sum(size**2 for size in sizes)


@pytest.mark.slow
def test_a_training_that_was_stopped_counts_no_step_twice(folder: Path, rows: list[TrainRow], tmp_path: Path) -> None:
    quiet = train(folder, rows, tmp_path / "quiet")

    def stop(step: int) -> None:
        if step == 5:  # one step after the checkpoint of step 4
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(folder, rows, tmp_path / "stopped", told=stop)
    went_on = train(folder, rows, tmp_path / "stopped")
    assert quiet.measured is not None and went_on.measured is not None
    assert went_on.measured.tokens == quiet.measured.tokens
    assert went_on.measured.tower_calls == quiet.measured.tower_calls
    assert went_on.log == quiet.log


@pytest.mark.slow
def test_a_checkpoint_that_counted_nothing_makes_no_figures_up(
    folder: Path, rows: list[TrainRow], tmp_path: Path
) -> None:
    """As those of an older version: neither counts nor their names in the seal."""

    def stop(step: int) -> None:
        if step == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(folder, rows, tmp_path, told=stop)
    (tmp_path / "checkpoint-4" / "counted-0.json").unlink()
    seal = tmp_path / "checkpoint-4.done"
    told = json.loads(seal.read_text())
    del told["files"]["counted-0.json"]
    seal.write_text(json.dumps(told))
    assert train(folder, rows, tmp_path).measured is None
