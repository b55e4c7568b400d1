"""Two processes train as one does: the pairs of a step are dealt to them, the reference's prompts too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dpo_rig import LORA, draw_rows
from tiny_llava import save_tiny_llava

from align.settings import Train
from align.train.lora_run import train_lora

TRAIN_IN_A_PROCESS = """
import json, os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_packing_processes import train
log = train(*(Path(p) for p in sys.argv[2:5]), batch_size=2, batch_by=sys.argv[5])
if os.environ["RANK"] == "0":
    print(json.dumps(log))
"""


def train(model: Path, root: Path, folder: Path, *, batch_size: int, batch_by: Any) -> Any:
    """Four steps on pairs with images, with two, and with text alone."""
    rows = [row for seed in (1, 2, 8, 3, 4) for row in draw_rows(root, seed=seed)]
    trl = {"per_device_train_batch_size": batch_size, "max_steps": 4, "learning_rate": 1e-2}
    made = train_lora(
        method="dpo",
        stage="dpo",
        rows=rows,
        model=model,
        settings=Train(lora=LORA, checkpoint_every=2, batch_by=batch_by, trl=trl),
        seed=1,
        folder=folder,
        progress=lambda done, total, note="": None,
    )
    return made.log


def train_in_two(model: Path, root: Path, folder: Path, *, batch_by: str) -> Any:
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(TRAIN_IN_A_PROCESS)
    here = Path(__file__).parent
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    ended = subprocess.run(
        [sys.executable, *map(str, [*launch, here, model, root, folder, batch_by])],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ
        | {
            "PYTHONPATH": str(here.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        },
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    model, root = save_tiny_llava(tmp_path / "m"), tmp_path / "images"
    root.mkdir()
    alone = train(model, root, tmp_path / "one", batch_size=4, batch_by="pairs")
    together = train_in_two(model, root, tmp_path / "two", batch_by="pairs")
    for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert [e[name] for e in together] == pytest.approx([e[name] for e in alone], rel=1e-4, abs=1e-5), name
    one, two = (next((tmp_path / name / "reference").iterdir()) for name in ("one", "two"))
    keys = [{key for line in path.read_text().splitlines() for key in json.loads(line)["line"]} for path in (one, two)]
    assert keys[0] == keys[1]


@pytest.mark.slow
def test_two_processes_hold_prompts_of_unlike_many_pairs(tmp_path: Path) -> None:
    """The measures are means over all pairs of both, as they are for one process."""
    model, root = save_tiny_llava(tmp_path / "m"), tmp_path / "images"
    root.mkdir()
    alone = train(model, root, tmp_path / "one", batch_size=4, batch_by="prompts")
    together = train_in_two(model, root, tmp_path / "two", batch_by="prompts")
    for name in ("loss", "logps/chosen", "logps/rejected"):
        assert together[0][name] == pytest.approx(alone[0][name], rel=1e-4, abs=1e-5), name
    assert len(together) == 4
