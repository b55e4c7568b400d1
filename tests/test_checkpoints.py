"""Checkpoints that lost a file, or part of one, are told and not gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_train_kill import file_sha256, resumable
from tiny_llava import save_tiny_llava

from align.train.checkpoints import damage, last_whole, marker_of, seal

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def checkpoint(folder: Path, step: int, *, old: bool = False) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    for name in FILES:
        (made / name).write_text(f"{name} at step {step}")
    if old:  # as they were sealed once
        marker_of(made).write_text(f"{step}\n")
    else:
        seal(made, marker_of(made))
    return made


def test_the_newest_checkpoint_that_is_as_it_was_is_taken(tmp_path: Path) -> None:
    told: list[str] = []
    first, second, third = (checkpoint(tmp_path, step) for step in (25, 50, 100))
    (third / "scheduler.pt").write_text("short")
    (second / "optimizer.pt").unlink()
    assert last_whole(tmp_path, told.append) == first
    assert told == [
        "checkpoint-100 is damaged: scheduler.pt has 5 bytes, not 24; checkpoint-50 is damaged: optimizer.pt is "
        "missing; goes on from checkpoint-25"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-25", "checkpoint-25.done"]

    (first / "rng_state.pth").write_text("rng_state.pth at step 52")  # as long as before
    assert not damage(first, marker_of(first), hashes=False)
    assert last_whole(tmp_path, told.append) is None
    assert told[1:] == ["checkpoint-25 is damaged: rng_state.pth was changed; starts at step 1"]


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_sealed_by_its_step_alone_must_hold_all_files(tmp_path: Path, name: str) -> None:
    made = checkpoint(tmp_path, 50, old=True)
    assert damage(made, marker_of(made)) == ""
    (made / name).unlink()
    assert damage(made, marker_of(made)) == f"{name} is missing"


def test_a_training_that_lost_its_optimizer_ends_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, root, workspace = save_tiny_llava(tmp_path / "llava"), tmp_path / "images", tmp_path / "stopped"
    root.mkdir()

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 12:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        resumable(folder, root, workspace, method="sft", tell=stop)
    (workspace / "checkpoint-10/optimizer.pt").unlink()
    steps: list[int] = []
    resumed = resumable(folder, root, workspace, method="sft", tell=lambda done, total, note="": steps.append(done))
    assert "checkpoint-10 is damaged: optimizer.pt is missing; goes on from checkpoint-5\n" in capsys.readouterr().err
    assert steps[0] == 6
    whole = resumable(folder, root, tmp_path / "whole", method="sft", tell=lambda done, total, note="": None)
    weights = "adapter_model.safetensors"
    assert file_sha256(resumed.adapter / weights) == file_sha256(whole.adapter / weights)
