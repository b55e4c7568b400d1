"""What a recipe or a command alone shows to be wrong is told before any stage has worked, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from align.inputs import input_faults
from align.recipe import load_recipe
from align.stages import STAGES
from annotate.errors import UserError

DEMO = Path(__file__).parents[1] / "recipes/demo.yaml"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("dpo.parts={language: full}", "dpo.parts.language: full is not for dpo"),
        ("dpo.parts={projector_learning_rate: 1.0e-5}", "dpo.parts.projector_learning_rate: 1e-05 for what does not"),
        ("steerlm.reference=live", "steerlm.reference: means nothing here"),
    ],
)
def test_options_that_do_not_go_together_are_told_before_a_stage_begins(change: str, told: str) -> None:
    recipe = load_recipe(DEMO, [change])
    (fault,) = input_faults(recipe, [STAGES["dpo"], STAGES["steerlm"]], asking=False)
    assert fault.startswith(told)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            r".*\.qproj",
            r"'.*\\.qproj' matches no module of this model; its layers are called like "
            "model.language_model.layers.0.self_attn.q_proj",
        ),
        (".*", "'.*' also matches the model itself (LlavaForConditionalGeneration), which can have no adapter"),
        (".*language_model.*", "also matches model.language_model (LlamaModel), which can have no adapter"),
        (".*(lm_head|q_proj)", "also matches lm_head, whose matrix TRL's loss reads itself"),
    ],
)
def test_a_target_that_no_adapter_can_have_is_told_before_a_stage_begins(folder: Path, target: str, told: str) -> None:
    recipe = load_recipe(DEMO, [f"dpo.lora.target='{target}'"])
    (fault,) = input_faults(recipe, [STAGES["sample"], STAGES["dpo"]], asking=False, model=folder)
    assert fault.startswith("dpo.lora.target: ") and told in fault


@pytest.mark.parametrize("target", [r".*language_model\.layers\.1\..*q_proj", "all-linear", r".*\.[qv]_proj"])
def test_a_target_of_ones_own_is_taken(folder: Path, target: str) -> None:
    recipe = load_recipe(DEMO, [f"dpo.lora.target='{target}'"])
    assert input_faults(recipe, [STAGES["dpo"]], asking=False, model=folder) == []


def test_weights_that_were_not_copied_whole_are_told_before_a_stage_begins(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (fault,) = input_faults(load_recipe(DEMO), [STAGES["dpo"]], asking=False, model=tmp_path)
    assert "model.safetensors: not a file of safetensors" in fault and fault.endswith("was it copied whole?")


@pytest.mark.parametrize("option", ["activation_offloading", "fp16"])
def test_what_needs_a_gpu_is_refused_on_a_cpu_before_a_stage_begins(option: str) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    recipe = load_recipe(DEMO, [f"dpo.trl.{option}=true", f"steerlm.trl.{option}=false"])
    (fault,) = input_faults(recipe, [STAGES["dpo"], STAGES["steerlm"]], asking=False)
    assert fault == f"dpo.trl.{option}: needs a GPU, and there is none; delete it"


def test_a_value_that_other_tools_read_as_false_is_taken_where_it_is_the_only_meaning() -> None:
    dpo = load_recipe(DEMO, ["dpo.sharing=off"]).dpo
    assert dpo is not None and dpo.sharing == "off"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("dpo.trl.max_steps=0", "dpo.trl.max_steps: 0 steps train nothing"),
        ("dpo.trl.deepspeed=x.json", "dpo.trl.deepspeed: is not for the recipe: use accelerate launch --config_file"),
        ("dpo.trl.fsdp_config={}", "dpo.trl.fsdp_config: is not for the recipe: use accelerate launch --config_file"),
        ("dpo.trl.parallelism_config={}", "is not for the recipe: use accelerate launch --config_file"),
        ("dpo.trl.optim=1", "dpo.trl.optim: expected text, got the number 1"),
        ("dpo.trl.learning_rate=fast", "dpo.trl.learning_rate: expected a number, got text 'fast'"),
        ("dpo.lora.target=[", "put it in quotes: 'dpo.lora.target=\"[\"'"),
        ("name=", "command line  name: empty"),
        ("runs=''", "command line  runs: empty"),
        ("dpoo.trl.beta=1", "the recipe has no block `dpoo`; did you mean 'dpo'?"),
    ],
)
def test_a_recipe_is_refused_with_the_remedy(change: str, told: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        load_recipe(DEMO, [change])
    assert told in str(error.value)


def test_several_processes_without_a_launcher_are_told_what_to_use() -> None:
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    environment.pop("MASTER_ADDR", None)
    done = subprocess.run(
        [sys.executable, "-m", "align", "dpo", str(DEMO)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == "WORLD_SIZE is set but MASTER_ADDR and MASTER_PORT are not; use `accelerate launch`\n"


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="seed: given twice, seed=1 and seed=2; delete one"):
        load_recipe(DEMO, ["seed=1", "name=a", "seed=2"])
    assert load_recipe(DEMO, ["seed=1", "seed=1"]).seed == 1
