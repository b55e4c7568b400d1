"""`accelerate launch`: several processes, one run; what they learn is what one does, and none is left behind."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from launched import alone, dpo_recipe, ended, log_of, rank_processes, start, wait_for
from small_run import ROOT

MEASURES = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected", "learning_rate")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp2.yaml"])
def test_two_processes_one_of_them_killed_learn_what_one_does(tmp_path: Path, config: str) -> None:
    """Four pairs a step, with one image, with two or with text alone, as they come; the second process is killed."""
    single, recipe = dpo_recipe(tmp_path / "one"), dpo_recipe(tmp_path / "two")
    alone("dpo", single, "dpo.trl.per_device_train_batch_size=4")
    process = start(config, "dpo", recipe)
    work = recipe.parent / "runs/small/dpo/work"
    wait_for(work, "*/checkpoint-2.done")
    ranks = rank_processes(process)
    assert set(ranks) == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    code, out, errors = ended(process, seconds=60)
    assert code != 0
    assert "dpo: done" not in out
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert errors.count("another process of the training has ended") == 1
    assert not (recipe.parent / "runs/small/dpo/log.jsonl").exists()

    (marker,) = work.glob("*/checkpoint-2.done")
    written = marker.stat().st_mtime_ns
    process = start(config, "dpo", recipe)
    wait_for(work, "*/checkpoint-4.done")
    assert marker.stat().st_mtime_ns == written  # steps 1 and 2 were not taken again
    code, out, errors = ended(process)
    assert code == 0, errors[-3000:]
    assert out.count("dpo: done") == 1
    assert errors.count("dpo: 2 processes, 2 x 2 rows a step\n") == 1
    together, one = log_of(recipe), log_of(single)
    assert [e["step"] for e in together] == [1, 2, 3, 4, 5, 6]
    for name in MEASURES:
        assert [e[name] for e in together] == pytest.approx([e[name] for e in one], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "change", "told"),
    [
        (
            "sample",
            "seed=0",
            "align sample runs in one process; several are for align pretrain, align instruct, align dpo, ",
        ),
        ("dpo", "dpo.trl.save_steps=5", "write `checkpoint_every:` beside `trl:`"),  # the first one reads the recipe
        ("dpo", "dpo.max_length=3", "dpo: no row to train on (too_long): row "),  # all of them find that
    ],
)
def test_a_mistake_is_told_once_and_all_end_with_it(tmp_path: Path, verb: str, change: str, told: str) -> None:
    began = time.monotonic()
    process = start("fsdp2.yaml", verb, dpo_recipe(tmp_path / "run"), change)
    code, _, errors = ended(process, seconds=100)
    assert code == 1  # the launcher's own
    assert errors.count(told) == 1
    assert "Traceback" not in errors.split('Traceback (most recent call last):\n  File "<frozen runpy>"')[0]
    assert set(re.findall(r"exitcode +: (\S+)", errors)) == {"2"}  # of those that ended before the launcher looked
    assert time.monotonic() - began < 90


@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp2.yaml", "zero3.yaml"])
def test_the_shipped_configurations_are_accelerates(config: str) -> None:
    read = load_config_from_file(str(ROOT / "recipes/accelerate" / config))
    assert read.num_processes == 4
    assert read.distributed_type == {"d": "MULTI_GPU", "f": "FSDP", "z": "DEEPSPEED"}[config[0]]
