"""QLoRA: the language model in 4 bits (bitsandbytes' own CPU kernels), an adapter on it, and TRL's numbers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_rig import LORA, config, draw_rows, row_of, save_sharp_llava, trl_trainer
from safetensors.torch import load_file
from tiny_llava import ask_about, pair, save_image
from transformers import AutoConfig

from align.models.load import LoadedModel, load_vlm
from align.sample.engine import Ask, Decoding, generate
from align.settings import Lora, Train
from align.train.lora_rows import TrainRow, preference_row
from align.train.lora_run import train_lora
from align.train.preference import made_by
from align.train.preflight import memory_needed
from align.train.trainers import learn_in_float32
from annotate.errors import UserError

TRAIN_IN_A_PROCESS = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_qlora import resumable
resumable(*(Path(p) for p in sys.argv[2:5]), tell=lambda done, total, note="": print(done, flush=True))
"""


def silent(done: int, total: int, note: str = "") -> None:
    return None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def small(folder: Path) -> LoadedModel:
    return load_vlm(folder, quantize="nf4")


def test_the_layers_of_the_language_model_are_in_four_bits_and_nothing_else(folder: Path, small: LoadedModel) -> None:
    whole = load_vlm(folder).model.state_dict()
    kept = {name: p for name, p in small.model.named_parameters() if type(p).__name__ != "Params4bit"}
    assert set(whole) - set(kept) == {n for n in whole if ".language_model.layers." in n and n.endswith("_proj.weight")}
    for name, parameter in kept.items():
        assert torch.equal(parameter, whole[name]), name
    # 16 levels: with 6.5 bits of noise per weight it would be another model
    layer = "model.language_model.layers.1.mlp.down_proj"
    eye = torch.eye(whole[f"{layer}.weight"].shape[1])
    rounded = small.model.get_submodule(layer)(eye).T
    assert len(rounded.unique()) < rounded.numel() / 2
    assert 0.05 < (rounded - whole[f"{layer}.weight"]).norm() / rounded.norm() < 0.15


def test_a_dpo_run_on_four_bits_is_trls_on_the_same_four_bits(folder: Path, root: Path, tmp_path: Path) -> None:
    """Four steps over groups of four that share their prompts, the reference cached: measures and adapter to 1e-4."""
    a, b = (save_image(root, f"{name}.png", seed=i) for i, name in enumerate("ab"))
    prompts = [ask_about(a), ask_about(b, a, text="Which?"), ask_about(text="Hi")]
    rows = [row_of(p, root, "The 4 is blue.", no) for p in prompts for no in ("No", "Maybe it is not", "Red")]
    options = {"per_device_train_batch_size": 3, "max_steps": 4, "learning_rate": 1e-2}
    ours = train_lora(
        method="dpo",
        stage="dpo",
        rows=rows,
        model=folder,
        settings=Train(lora=LORA, quantize="nf4", trl=options),
        seed=1,
        folder=tmp_path / "ours",
        progress=silent,
    )
    assert ours.log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert ours.log[-1]["loss"] < 0.6
    assert ours.notes["completions of one prompt"].startswith("share")
    assert ours.notes["reference log-probabilities"].startswith("computed once")
    theirs = trl_trainer(load_vlm(folder, quantize="nf4"), rows, config(tmp_path / "theirs", **options))
    learn_in_float32(theirs.model)  # TRL would round every step to 8 bits; see there
    theirs.train()
    logged = [entry for entry in theirs.state.log_history if "loss" in entry]
    for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected", "entropy"):
        assert [e[name] for e in ours.log] == pytest.approx([e[name] for e in logged], rel=1e-4, abs=1e-5), name
    trained = load_file(ours.adapter / "adapter_model.safetensors")
    for name, value in theirs.model.state_dict().items():
        if ".default." in name:
            torch.testing.assert_close(trained[name.replace(".default.", ".")], value, rtol=1e-3, atol=1e-4)


def test_the_adapter_is_float32_and_is_sampled_from_on_the_whole_model(
    folder: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [preference_row(pair(ask_about(save_image(root, f"s{i}.png", seed=i))), root) for i in range(4)]
    rows = [TrainRow(id=r.id, prompt=r.prompt, images=r.images, completions=("Red.",)) for r in rows]
    made = train_lora(
        method="sft",
        stage="sft",
        rows=rows,
        model=folder,
        settings=Train(
            lora=Lora(r=16, alpha=32, dropout=0.0),
            quantize="nf4",
            trl={"per_device_train_batch_size": 4, "max_steps": 12, "learning_rate": 2e-2},
        ),
        seed=1,
        folder=tmp_path,
        progress=silent,
    )
    assert capsys.readouterr().err == "nf4 on a CPU: slower than without, good for a trial\n"
    assert {t.dtype for t in load_file(made.adapter / "adapter_model.safetensors").values()} == {torch.float32}
    assert made.log[0]["loss"] > 7
    assert made.log[-1]["loss"] < 0.9  # a head this narrow cannot be surer
    loaded = load_vlm(folder, adapter=made.adapter)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    asks = [Ask(key=row.prompt.id, turns=row.prompt.turns, images=row.images) for row in rows]
    answers = generate(loaded, asks, decoding=Decoding(max_new_tokens=20)).draws
    assert [draw.text for (draw,) in answers] == ["Red."] * 4


def test_the_memory_of_four_bits_is_counted_from_the_shapes(tmp_path: Path, small: LoadedModel) -> None:
    folder = save_sharp_llava(tmp_path)
    shape = AutoConfig.from_pretrained(folder)
    guesses = [
        memory_needed(folder, shape, Train(quantize=q), [10], batch_size=1, itemsize=4).weights for q in ("none", "nf4")
    ]
    model = load_vlm(folder, quantize="nf4").model
    whole = sum(p.nbytes for p in load_vlm(folder).model.parameters())
    assert guesses[0] == whole
    held = 0
    for parameter in model.parameters():
        held += parameter.nbytes
        if (state := getattr(parameter, "quant_state", None)) is not None:
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    assert guesses[1] == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_bfloat16_arithmetic_on_a_cpu_is_near_float32s(folder: Path, root: Path, tmp_path: Path, quantize: Any) -> None:
    logs = []
    for bf16 in (False, True):
        made = train_lora(
            method="dpo",
            stage="dpo",
            rows=draw_rows(root, seed=1)[:4],
            model=folder,
            settings=Train(
                lora=LORA,
                quantize=quantize,
                trl={"per_device_train_batch_size": 2, "max_steps": 3, "learning_rate": 1e-2, "bf16": bf16},
            ),
            seed=1,
            folder=tmp_path / f"bf16 {bf16}",
            progress=silent,
        )
        logs.append([entry["loss"] for entry in made.log])
    assert logs[0] == pytest.approx(logs[1], abs=0.01)
    assert logs[0][1:] != logs[1][1:]


def test_numbers_of_a_quantised_reference_are_its_own(folder: Path, small: LoadedModel, tmp_path: Path) -> None:
    plain, quantised = (made_by(vlm, config(tmp_path)) for vlm in (load_vlm(folder), small))
    assert (plain.precision, quantised.precision) == ("float32", "nf4, float32")
    assert "bitsandbytes" in quantised.software
    assert "bitsandbytes" not in plain.software  # caches made before this option stay good


def test_four_bits_are_not_spread_over_processes(
    folder: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch` says it
    with pytest.raises(UserError, match=r"dpo\.quantize: does not go with FSDP or ZeRO; use recipes/accelerate/ddp"):
        resumable(folder, root, tmp_path, tell=silent)


def resumable(folder: Path, root: Path, workspace: Path, *, tell: Any) -> Any:
    """Eight steps of DPO with dropout, a checkpoint every three."""
    return train_lora(
        method="dpo",
        stage="dpo",
        rows=draw_rows(root, seed=1)[:4],
        model=folder,
        settings=Train(
            lora=Lora(r=4, alpha=8, dropout=0.2),
            quantize="nf4",
            checkpoint_every=3,
            trl={"per_device_train_batch_size": 2, "max_steps": 8, "learning_rate": 1e-2},
        ),
        seed=4,
        folder=workspace,
        progress=tell,
    )


@pytest.mark.slow
def test_killed_on_four_bits_it_ends_with_the_same_bytes(folder: Path, root: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", TRAIN_IN_A_PROCESS, here, folder, root, tmp_path / "killed"]
    environment = os.environ | {"PYTHONPATH": str(here.parent), "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 5:
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    steps: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = [
            resumable(folder, root, tmp_path / name, tell=lambda done, total, note="": steps.append(done))
            for name in ("killed", "whole")
        ]
    finally:
        torch.set_num_threads(before)
    assert 1 < steps[0] <= 5
    killed, whole = ((one.adapter / "adapter_model.safetensors").read_bytes() for one in made)
    assert killed == whole
    assert json.dumps(made[0].log) == json.dumps(made[1].log)
