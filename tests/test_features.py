"""What a frozen tower makes of an image, kept: the tower is run once per image, and nothing else is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_unimodal import BESIDE, questions, train
from tiny_llava import save_tiny_llava, save_tiny_llava_next
from torch.nn.modules.module import register_module_forward_pre_hook

from align.settings import Parts, Train
from align.train.lora_rows import TrainRow
from align.train.lora_run import check_options
from annotate.errors import UserError

ALONE = Parts(language="frozen", projector="full")
TWO_EPOCHS = {"num_train_epochs": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def rows(tmp_path: Path) -> list[TrainRow]:
    return questions(tmp_path / "images", 5, 0)


def run_by_tower(train_it: Callable[[], Any]) -> tuple[list[int], Any]:
    """Images of each run of the tower itself, but for the rehearsed batch."""
    sizes: list[int] = []
    hook = register_module_forward_pre_hook(
        lambda module, given: sizes.append(len(given[0])) if type(module).__name__ == "CLIPVisionEmbeddings" else None
    )
    try:
        made = train_it()
    finally:
        hook.remove()
    return sizes[1:], made


@pytest.mark.parametrize("parts", [ALONE, BESIDE], ids=["connector", "lora and connector"])
def test_the_tower_is_run_once_for_each_image_and_never_again(
    model: Path, rows: list[TrainRow], tmp_path: Path, parts: Parts
) -> None:
    """Two epochs, then another run of two with the same folder: losses and weights are those without it, to the bit."""

    def run(name: str, **options: Any) -> Any:
        return train(model, rows, tmp_path / name, parts=parts, order="random", trl=TWO_EPOCHS, **options)

    sizes, plain = run_by_tower(lambda: run("plain"))
    assert sum(sizes) == 10
    kept: dict[str, Any] = {"features": "cache", "features_folder": str(tmp_path / "kept")}
    sizes, first = run_by_tower(lambda: run("first", **kept))
    assert sizes == [1] * 5
    sizes, again = run_by_tower(lambda: run("again", **kept))
    assert sizes == []
    assert first.notes["features"] == "of the frozen tower, computed once for each image"
    assert plain.log == first.log == again.log
    for name in ("model.safetensors", "adapter_model.safetensors"):
        files = [(made.adapter / name).read_bytes() for made in (plain, first, again) if (made.adapter / name).exists()]
        assert len(set(files)) <= 1


def test_another_tower_and_a_broken_file_are_told_and_computed_anew(
    model: Path, rows: list[TrainRow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: dict[str, Any] = {"features": "cache", "features_folder": str(tmp_path / "kept"), "parts": ALONE}
    train(model, rows, tmp_path / "first", **kept)
    capsys.readouterr()
    other = save_tiny_llava(tmp_path / "other", seed=1)
    sizes, _ = run_by_tower(lambda: train(other, rows, tmp_path / "second", **kept))
    assert sizes == [1] * 5
    assert "is of another tower, precision or torch; all is computed anew" in capsys.readouterr().err
    for path in (tmp_path / "kept").glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    sizes, _ = run_by_tower(lambda: train(model, rows, tmp_path / "third", **kept))
    assert sizes == [1] * 5
    assert ".safetensors is left out (" in capsys.readouterr().err


def test_features_of_many_images_are_few_files_and_of_the_computed_precision(
    model: Path, rows: list[TrainRow], tmp_path: Path
) -> None:
    train(model, rows, tmp_path / "first", features="cache", features_folder=str(tmp_path / "kept"), parts=ALONE)
    shards = [load_file(path) for path in (tmp_path / "kept").glob("*/*.safetensors")]
    assert sum(len(shard) for shard in shards) == 5
    assert len(shards) <= 2  # one with each checkpoint
    (shape,) = {tuple(t.shape) for shard in shards for t in shard.values()}
    assert shape == (1, 10, 32)  # layer, class and nine patches, width
    assert {t.dtype for shard in shards for t in shard.values()} == {torch.float32}


def test_views_of_llava_next_are_kept_too(tmp_path: Path) -> None:
    folder, rows = save_tiny_llava_next(tmp_path / "next"), questions(tmp_path / "images", 3, 0)
    how: dict[str, Any] = {"features": "cache", "features_folder": str(tmp_path / "kept"), "parts": ALONE}
    plain = train(folder, rows, tmp_path / "plain", parts=ALONE)
    kept = train(folder, rows, tmp_path / "first", **how)
    assert [e["loss"] for e in kept.log] == pytest.approx([e["loss"] for e in plain.log], rel=1e-6)
    sizes, _ = run_by_tower(lambda: train(folder, rows, tmp_path / "again", **how))
    assert sizes == []


def test_a_tower_that_learns_is_not_kept() -> None:
    with pytest.raises(UserError, match=r"sft.features: cache is for a frozen tower; parts.tower: frozen, or features"):
        check_options(Train(features="cache", parts=Parts(tower="full")), "sft", "sft")
