"""The recipe that a verb was given; a bare file in its place is told where it belongs."""

from __future__ import annotations

from collections.abc import Sequence

from align.recipe import Recipe, load_recipe
from annotate.errors import UserError

SUFFIXES = (".yaml", ".yml")
_PAIRS = (
    "its pairs go into one as `pairs: {{also: [{file}]}}`, where they join the run's own, as "
    "recipes/mixed_preference.yaml has it"
)
_PROMPTS = "prompts go into one as `prompts: {{file: {file}}}`, as recipes/own_data.yaml has it"


def recipe_of(verb: str, file: str, changes: Sequence[str]) -> Recipe:
    """Read and checked. Raises `UserError` for a file that is no recipe by its name."""
    if not file.endswith(SUFFIXES):
        where = (_PAIRS if verb == "dpo" else _PROMPTS).format(file=file)
        raise UserError(f"{file}: `align {verb}` takes a recipe, *.yaml; {where}")
    return load_recipe(file, changes)
