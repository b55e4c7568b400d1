"""A training that is killed, and called again, ends with the bytes of one that was left in peace."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llava import ask_about, pair, save_image, save_tiny_llava

from align.settings import Lora, Parts, Train
from align.train.lora_rows import TrainRow, preference_row
from align.train.lora_run import train_lora
from annotate.jsonl import dump_line

TRAIN_IN_A_PROCESS = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
from test_train_kill import resumable
folders = [Path(p) for p in sys.argv[3:6]]
resumable(*folders, method=sys.argv[6], tell=lambda done, total, note="": print(done, flush=True))
"""


def resumable(folder: Path, root: Path, workspace: Path, *, method: str, tell: Any) -> Any:
    """A training of 24 steps over 2 epochs, with dropout, a checkpoint every 5 steps."""
    images = [save_image(root, f"k{i}.png", seed=i) for i in range(24)]
    rows = [preference_row(pair(ask_about(image, text=f"Question {i}?")), root) for i, image in enumerate(images)]
    if method != "dpo":
        rows = [TrainRow(id=r.id, prompt=r.prompt, images=r.images, completions=r.completions[:1]) for r in rows]
    return train_lora(
        method="dpo" if method == "dpo" else "sft",
        stage=method,
        rows=rows,
        model=folder,
        settings=Train(
            lora=Lora(r=4, alpha=8, dropout=0.2),
            parts=Parts(language="full", projector="full", projector_learning_rate=1e-3)
            if method == "full"
            else Parts(),
            checkpoint_every=5,
            trl={
                "per_device_train_batch_size": 2,
                "num_train_epochs": 2,
                "learning_rate": 1e-2,
                "lr_scheduler_type": "cosine",
            },
        ),
        seed=4,
        folder=workspace,
        progress=tell,
    )


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("method", "killed_after"),
    [
        ("sft", 7),
        pytest.param("full", 8, marks=pytest.mark.slow),
        pytest.param("dpo", 13, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path, method: str, killed_after: int) -> None:
    folder, root, workspace = save_tiny_llava(tmp_path / "llava"), tmp_path / "images", tmp_path / "killed"
    root.mkdir()
    here = Path(__file__).parent
    command = [sys.executable, "-c", TRAIN_IN_A_PROCESS, here, torch.get_num_threads(), folder, root, workspace, method]
    environment = os.environ | {"PYTHONPATH": str(here.parent), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == killed_after:
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    assert not (workspace / "adapter").exists()
    assert not (workspace / "model").exists()
    # A checkpoint that the kill cut short has no marker: it must not be taken for one.
    half = workspace / "checkpoint-20"
    half.mkdir(exist_ok=True)
    (half / "trainer_state.json").write_text('{"global_step": 20')
    (workspace / "checkpoint-20.done").unlink(missing_ok=True)

    steps: list[int] = []
    resumed = resumable(folder, root, workspace, method=method, tell=lambda done, total, note="": steps.append(done))
    undisturbed = resumable(folder, root, tmp_path / "whole", method=method, tell=lambda done, total, note="": None)
    assert 1 < steps[0] <= killed_after  # from the last checkpoint, not from the start
    assert steps[-1] == 24
    names = sorted(path.name for path in undisturbed.adapter.iterdir())
    assert ("model.safetensors" if method == "full" else "adapter_model.safetensors") in names
    for name in names:
        assert file_sha256(resumed.adapter / name) == file_sha256(undisturbed.adapter / name), name
    assert [dump_line(entry) for entry in resumed.log] == [dump_line(entry) for entry in undisturbed.log]
