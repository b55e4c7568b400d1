"""DPO where it could go wrong: unusual losses, folders that two runs share, batches unlike each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from dpo_rig import LORA, draw_rows, row_of
from test_reference import HERE, asked, counted, silent
from tiny_llava import ask_about, save_tiny_llava

from align.models.load import LoadedModel, load_vlm
from align.settings import Train
from align.train.lora_run import Trained, train_lora
from align.train.reference import ReferenceCache
from annotate.errors import UserError
from annotate.journal import Journal


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


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
