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


def test_a_value_that_other_tools_read_as_false_is_taken_where_it_is_the_only_meaning() -> None:
    dpo = load_recipe(DEMO, ["dpo.sharing=off"]).dpo
    assert dpo is not None and dpo.sharing == "off"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("dpo.trl.max_steps=0", "dpo.trl.max_steps: 0 steps train nothing"),
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
