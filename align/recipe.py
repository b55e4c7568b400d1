"""A recipe: a flat YAML file with one block per stage, checked whole before anything runs.

    name: demo
    seed: 0
    model: recipes/demo_base.yaml
    prompts:  {file: data/demo/prompts.jsonl, image_root: data/demo/images}
    sample:   {n: 4, temperature: 0.7, max_new_tokens: 40}
    annotate: {backend: rules}

`load_recipe` gives the frozen dataclasses of `settings.py`, or one `UserError` with every fault, each as
`recipes/x.yaml:14  annotate.backend: no annotator 'opnai'; did you mean 'openai_chat'?`. Torch-free. A stage is part of
a recipe when its block is there; paths are relative to the working directory. The block `sweep:` is read by
`align sweep` (`align/sweep/grid.py`) and decides nothing of what other verbs do.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align import recipe_checks
from align.building import ConnectSettings, Instruct, LanguageSettings, Pretrain, TuneSettings
from align.recipe_reader import Faults, did_you_mean, read_block
from align.settings import Annotate, Evaluate, Pairs, Prompts, Report, Sample, Teach, Train, option
from align.stages import MODEL_MADE_BY, START_MADE_BY
from align.sweep.grid import SELECT, Point, read_sweep, sweep_faults
from align.yaml_lines import parse_value, read_yaml
from annotate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is to be done; blocks in the order in which their stages run, None where the recipe has no such block."""

    path: Path = dataclasses.field(metadata={"derived": True})
    places: Faults | None = dataclasses.field(default=None, metadata={"derived": True}, compare=False, repr=False)
    """Where each key stands; None for a recipe that was not read from a file."""
    overrides: tuple[str, ...] = dataclasses.field(default=(), metadata={"derived": True}, compare=False, repr=False)
    """The `key=value` changes it was read with."""
    name: str = option("", "the run's folder below `runs`; the file's name where left out")
    seed: int = option(0, "of every draw", low=0, high=2**32 - 1)
    model: str = option("", "the vision-language model: a folder, a hub name, or the recipe that trains it")
    backbone: str = option("", "the language model before visual tuning, the verdict's yardstick; as `model`")
    threads: int | None = option(None, "CPU threads of torch; outputs are byte-identical for one number", low=1)
    runs: str = option("runs", "folder of all runs", operational=True)
    prompts: Prompts | None = option(None, "the images and questions to align on")  # noqa: RUF009
    language: LanguageSettings | None = option(None, "a language model from nothing")  # noqa: RUF009
    connect: ConnectSettings | None = option(None, "vision tower and projector joined to it")  # noqa: RUF009
    tune: TuneSettings | None = option(None, "visual instruction tuning")  # noqa: RUF009
    pretrain: Pretrain | None = option(None, "a VLM out of a language model and a tower: the projector learns")  # noqa: RUF009
    instruct: Instruct | None = option(None, "visual instruction tuning of any VLM")  # noqa: RUF009
    sample: Sample | None = option(None, "completions of each prompt by the model")  # noqa: RUF009
    annotate: Annotate | None = option(None, "scores for each completion")  # noqa: RUF009
    teach: Teach | None = option(None, "the annotator answers the prompts itself")  # noqa: RUF009
    pairs: Pairs | None = option(None, "from scores to training sets")  # noqa: RUF009
    dpo: Train | None = option(None, "direct preference optimization")  # noqa: RUF009
    steerlm: Train | None = option(None, "SteerLM: fine-tuning conditioned on the scores")  # noqa: RUF009
    rejection: Train | None = option(None, "fine-tuning on the best completion of each prompt")  # noqa: RUF009
    sft: Train | None = option(None, "fine-tuning on the annotator's own answers")  # noqa: RUF009
    evaluate: Evaluate | None = option(None, "benchmarks for every model")  # noqa: RUF009
    report: Report | None = option(None, "one page and one table")  # noqa: RUF009
    rounds: int = option(1, "of sampling, annotating and DPO, each from the model before", low=1, operational=True)
    sweep: Mapping[str, Any] = option(dict, "dotted keys of this recipe with lists of values", operational=True)

    @property
    def folder(self) -> Path:
        """Where the run's stages lie."""
        return Path(self.runs) / self.name

    def command(self, verb: str) -> str:
        """What to type, with the changes that were given."""
        return shlex.join(["align", verb, str(self.path), *self.overrides])

    def placed(self, fault: str) -> str:
        """What was found wrong with an option later than the recipe was read, with the place of its key before it."""
        key = fault.partition(": ")[0]
        known = re.fullmatch(r"\w+(\.\w+)*", key) and hasattr(self, key.partition(".")[0])
        return f"{self.places.where(key)}  {fault}" if self.places and known else fault

    @property
    def model_stage(self) -> str | None:
        """The stage that makes the model to align; None where `model` names it."""
        return next((name for name in MODEL_MADE_BY if self.block(name) is not None), None)

    @property
    def start_stage(self) -> str | None:
        """The stage that makes what `instruct` begins with; None where `model` names it."""
        return next((name for name in START_MADE_BY if self.block(name) is not None), None)

    def block(self, stage: str) -> Any:
        """The settings of a stage, None where the recipe does not have it."""
        return getattr(self, stage)


def load_recipe(path: Path | str, overrides: Sequence[str] = (), *, point: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe, with `key=value` overrides on top. Raises `UserError` with every fault.

    `point`: what one point of the recipe's sweep changes, dotted key -> value; its faults are told where the key stands
    in the block `sweep`. Without it that block is checked too, each value once.
    """
    path = Path(path)
    document = read_yaml(path)
    faults = Faults(str(path), document.lines)
    for line, key, what in document.faults:
        faults.add_at(line, key, what)
    values = document.values
    if not values:
        raise UserError(*(faults.texts or [f"{path}: is empty"]))
    given: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0]
        if given.setdefault(key, override) != override:
            faults.mark_override(key)
            faults.add(key, f"given twice, {given[key]} and {override}; delete one")
        _override(values, override, faults)
    for key in ("name", "runs"):  # elsewhere `key=` takes a value away; here another run's folder would be written
        if values.get(key, "text") in (None, "") and not (values[key] is None and not faults.is_override(key)):
            faults.add(key, f"empty; write a name, e.g. {key}=other")
    for key, value in (point or {}).items():
        faults.mark_override(key, faults.lines.get(f"sweep.{key}"))
        _put(values, key, value, faults)
    values = {k: v for k, v in values.items() if not (v is None and faults.is_override(k))}
    blocks = read_block(Recipe, values, "", faults)
    blocks |= {"path": path, "places": faults, "overrides": tuple(overrides)}
    blocks.setdefault("name", path.stem)
    recipe = Recipe(**blocks)
    recipe_checks.check(recipe, faults)
    texts = faults.texts
    if recipe.sweep and point is None:
        texts += [text for text in _sweep_faults(recipe, overrides, faults.lines) if text not in texts]
    if texts:
        raise UserError(*texts)
    return recipe


def _sweep_faults(recipe: Recipe, overrides: Sequence[str], lines: Mapping[str, int]) -> list[str]:
    """What is wrong with the block `sweep`: each value is tried once, the other axes at their first."""
    sweep = read_sweep(recipe.sweep)
    faults = Faults(str(recipe.path), lines)
    for key, what in sweep_faults(sweep):
        faults.add(f"sweep.{key}".rstrip("."), what)
    suites = sweep.fixed.get("evaluate.suites") or (recipe.evaluate.suites if recipe.evaluate else ())
    if recipe.evaluate and recipe.evaluate.text:
        suites = (*suites, *recipe.evaluate.text.tasks)
    if isinstance(sweep.select, str) and sweep.select not in suites:
        faults.add(f"sweep.{SELECT}", f"{sweep.select!r} is no suite of this recipe: {', '.join(suites) or 'none'}")
    if faults.texts:
        return faults.texts
    # A point that trains nothing would try nothing.
    first = {key: next(filter(None, values), values[0]) for key, values in sweep.axes.items()}
    tried = [{**first, key: value} for key, values in sweep.axes.items() for value in values]
    found: dict[str, None] = {}
    for values in tried:
        try:
            load_recipe(recipe.path, overrides, point=Point(name="", values=values, fixed=sweep.fixed).changes)
        except UserError as error:
            found |= dict.fromkeys(error.faults)
    return list(found)


def _override(values: dict[str, Any], override: str, faults: Faults) -> None:
    """Put `dpo.trl.beta=0.2` into the values, as if it stood in the file."""
    key, equals, text = override.partition("=")
    parts = key.split(".")
    faults.mark_override(key)
    if not equals or not all(parts):
        faults.add(key, f"write key=value, e.g. sample.n=2; got {override!r}")
        return
    try:
        value = parse_value(text)
    except ValueError as error:
        quoted = shlex.quote(f'{key}="{text}"')
        faults.add(key, f"{error}; if it is text, put it in quotes: {quoted}")
        return
    _put(values, key, value, faults)


def _put(values: dict[str, Any], key: str, value: Any, faults: Faults) -> None:
    """Put a value under a dotted key."""
    parts = key.split(".")
    here = values
    for depth, part in enumerate(parts[:-1]):
        inner = here.get(part)
        if inner is None and depth == 0 and part not in ("sweep", "prompts"):  # these are no stages
            hint = did_you_mean(part, values) or f"; add `{part}: {{...}}` to the file"
            faults.add(key, f"the recipe has no block `{part}`{hint}")
            return
        # Copied, because two blocks may be one in the file (an alias).
        here[part] = dict(inner) if isinstance(inner, dict) else {}
        here = here[part]
    here[parts[-1]] = value


def identity_options(block: Any, prefix: str) -> dict[str, Any]:
    """Dotted key -> value of every option of a block that decides its stage's result."""
    found: dict[str, Any] = {}
    for spec in dataclasses.fields(block):
        if not spec.metadata.get("operational"):
            found.update(_flat(getattr(block, spec.name), f"{prefix}.{spec.name}"))
    return found


def _flat(value: Any, key: str) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return identity_options(value, key)
    if isinstance(value, Mapping) and value:
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{key}.{name}").items()}
    if isinstance(value, tuple | list):
        return {key: [dict(v) if isinstance(v, Mapping) else v for v in value]}
    return {key: dict(value) if isinstance(value, Mapping) else value}
