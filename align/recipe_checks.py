"""What a recipe must be beyond types and ranges: blocks that need each other, names that must exist, TRL's options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from align.pairs.score import check_settings
from align.recipe_reader import REFUSED, Faults, did_you_mean, shown
from align.stages import STAGES
from align.train import trl_fields
from annotate.backends.registry import installed
from annotate.errors import UserError
from annotate.rubric import load_rubric

if TYPE_CHECKING:
    from align.recipe import Recipe
    from align.settings import Text

_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "dict": "{key: value}",
    "null": "null",
}


def check(recipe: Recipe, faults: Faults) -> None:
    """Add to `faults` whatever makes no sense in the recipe as a whole."""
    if recipe.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", recipe.name):
        faults.add("name", f"{recipe.name!r} names a folder: letters, digits, dot, dash and underscore only")
    _blocks(recipe, faults)
    _rounds(recipe, faults)
    _models(recipe, faults)
    _instruct(recipe, faults)
    _annotators(recipe, faults)
    _pairs(recipe, faults)
    if recipe.evaluate:
        from align.benchmarks.suites import suites_of  # only where there is something to check

        _distinct("evaluate.suites", recipe.evaluate.suites, faults)
        for name in recipe.evaluate.suites:
            try:
                asked = suites_of(name)
            except UserError as error:
                faults.add("evaluate.suites", str(error))
                continue
            judge = recipe.evaluate.judge
            if asked[0].judged and judge is None:
                faults.add("evaluate.judge", f"missing: {name} is graded by a judge; add {{backend: ..., model: ...}}")
            elif asked[0].judged and judge and judge.backend == "rules":
                others = ", ".join(known for known in installed() if known != "rules")
                what = f"rules, the default, grades by answer keys, and {name} has none; name one of: {others}"
                faults.add("evaluate.judge.backend", what)
        if recipe.evaluate.also:
            _also(recipe.evaluate.also, faults)
        if recipe.evaluate.text:
            _text(recipe.evaluate.text, faults)
    for stage in ("pretrain", "instruct", "dpo", "steerlm", "rejection", "sft"):
        if recipe.block(stage) is not None:
            _training(stage, recipe.block(stage), faults)


def _blocks(recipe: Recipe, faults: Faults) -> None:
    present = {s.name for s in STAGES.values() if recipe.block(s.name) is not None}
    if not present:
        faults.add("", f"has no stage; add a block, e.g. `sample: {{}}`. Stages: {', '.join(STAGES)}")
    for name in present:
        for needed in dict.fromkeys(source.split("/")[0] for source in STAGES[name].requires):
            if needed not in present:
                faults.add(name, f"works on what `{needed}` leaves; add `{needed}: {{}}` to the recipe")
    wanting = any(STAGES[name].uses_prompts for name in present)
    if wanting and (recipe.prompts is None or not recipe.prompts.file) and not faults.has("prompts.file"):
        faults.add("prompts", "this recipe needs prompts; add `prompts: {file: ..., image_root: ...}`")


def _rounds(recipe: Recipe, faults: Faults) -> None:
    if recipe.rounds == 1:
        return
    missing = [name for name in ("sample", "annotate", "pairs", "dpo") if recipe.block(name) is None]
    if missing:
        faults.add(
            "rounds", f"a round samples, annotates and aligns by DPO; add {', '.join(f'`{m}`' for m in missing)}"
        )
    if recipe.sweep:
        faults.add("rounds", "does not go with `sweep`; take one of them out")


def _models(recipe: Recipe, faults: Faults) -> None:
    makers = [name for name in ("tune", "pretrain") if recipe.block(name) is not None]
    if makers and recipe.model:
        faults.add("model", f"the `{makers[0]}` block trains the model; delete one of them")
    if recipe.language and recipe.backbone:
        faults.add("backbone", "the `language` block trains the backbone; delete one of them")
    present = [s for s in STAGES.values() if recipe.block(s.name) is not None]
    needed = [s.name for s in present if s.uses_model and not recipe.model_stage]
    needed += [s.name for s in present if s.uses_start and not recipe.start_stage]
    if needed and not recipe.model and not faults.has("model"):
        faults.add("model", f"{needed[0]} needs a model; write a folder, a hub name or the recipe that trains it")
    if recipe.connect and not recipe.backbone and not recipe.language and not faults.has("backbone"):
        faults.add("backbone", "connect joins a tower to a language model; name one, or add `language: {}`")
    if recipe.pretrain:
        if not recipe.backbone and not recipe.language and not faults.has("backbone"):
            faults.add("backbone", "pretrain builds on a language model; write its folder or hub name")
        if not recipe.pretrain.tower and not faults.has("pretrain.tower"):
            faults.add("pretrain.tower", "missing: a CLIP, e.g. openai/clip-vit-large-patch14-336")
    for step in recipe.instruct.snapshots if recipe.instruct else ():
        if step < 1:
            faults.add("instruct.snapshots", f"{step} is impossible; the first step is 1")
    for name in ("pretrain", "instruct"):
        block = recipe.block(name)
        if block is not None and not block.rows and not faults.has(f"{name}.rows"):
            faults.add(f"{name}.rows", "missing: the file of the rows to train on, as data/prepare_*.py write them")


def _instruct(recipe: Recipe, faults: Faults) -> None:
    block = recipe.instruct
    if block and block.images == "strip" and block.parts.language == "frozen":
        what = "strip leaves text alone, which teaches nothing where the language model is frozen"
        faults.add("instruct.images", f"{what}; say `keep`, or let parts.language learn")


def _annotators(recipe: Recipe, faults: Faults) -> None:
    judge = recipe.evaluate.judge if recipe.evaluate else None
    named = {"annotate": recipe.annotate, "teach": recipe.teach, "evaluate.judge": judge}
    used = {key: block for key, block in named.items() if block is not None}
    if not used:
        return
    known = installed()
    for key, block in used.items():
        if block.backend not in known:
            hint = did_you_mean(block.backend, known)
            shown = ", ".join(known) or "none (is mmalign installed? pip install -e .)"
            faults.add(f"{key}.backend", f"no annotator {block.backend!r}{hint}  Installed: {shown}")


def _pairs(recipe: Recipe, faults: Faults) -> None:
    attributes: list[str] = []
    if recipe.annotate:
        try:
            attributes = list(load_rubric(recipe.annotate.rubric)[0].attributes)
        except UserError as error:
            for text in error.faults:
                faults.add("annotate.rubric", text)
    if recipe.pairs is None:
        return
    if recipe.annotate and recipe.annotate.mode == "pairwise" and recipe.pairs.basis == "scores":
        faults.add("annotate.mode", "pairwise annotations only compare; `pairs` needs scores: listwise or pointwise")
    try:
        check_settings(recipe.pairs)
    except UserError as error:
        for text in error.faults:
            key, _, what = text.partition(": ")
            faults.add(key, what)
    for name in recipe.pairs.score if attributes else ():
        if name not in attributes:
            hint = f"{did_you_mean(name, attributes)}  It scores: {', '.join(attributes)}"
            faults.add("pairs.score", f"the rubric does not score {name!r}{hint}")


def _also(models: Iterable[str], faults: Faults) -> None:
    """Rows of the table need names of their own."""
    from align.evaluate.models import ALIGNED, BACKBONE, NAMES, VLM

    taken = {BACKBONE, VLM, *(way.format(method) for method in ALIGNED for way in NAMES.values())}
    for name in models:
        key = f"evaluate.also.{name}"
        if name in taken:
            faults.add(key, "is a row of the table already; give the further model another name")
        elif not re.fullmatch(r"[A-Za-z]\w*", name):
            faults.add(key, f"{name!r} names a row: letters, digits and underscore, a letter first")


def _text(text: Text, faults: Faults) -> None:
    from align.benchmarks.text_asked import CHOICES
    from align.benchmarks.text_tasks import GROUPS, KNOWN, TASKS

    if not text.tasks:
        faults.add("evaluate.text.tasks", f"none; name at least one of: {', '.join(KNOWN)}")
    named = [(name, part) for name in text.tasks for part in GROUPS.get(name, (name,))]
    _distinct("evaluate.text.tasks", [part for _, part in named], faults)
    for key, names in (("tasks", text.tasks), ("shots", text.shots)):
        for name in names:
            if name not in KNOWN:
                faults.add(
                    f"evaluate.text.{key}", f"no task {name!r}{did_you_mean(name, KNOWN)}  Known: {', '.join(KNOWN)}"
                )
    wordless = [name for name in text.tasks if name in KNOWN and name not in CHOICES]
    if text.ask != "likelihood" and wordless:
        what = f"{text.ask} suits {', '.join(CHOICES)}; take {', '.join(wordless)} out of `tasks`"
        faults.add("evaluate.text.ask", what)
    if text.ask != "likelihood" and text.shots:
        faults.add("evaluate.text.shots", f"`ask: {text.ask}` shows no examples; leave it out")
    for name, n in text.shots.items():
        if n < 0:
            faults.add(f"evaluate.text.shots.{name}", f"{n} is impossible; it must be at least 0")
        elif n and any(TASKS[part].fixed_shots for part in GROUPS.get(name, (name,)) if part in TASKS):
            faults.add(f"evaluate.text.shots.{name}", "its six examples are part of its prompt; leave it out")


def _distinct(key: str, values: Iterable[str], faults: Faults) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            faults.add(key, f"{value!r} stands twice")
        seen.add(value)


def _training(stage: str, block: Any, faults: Faults) -> None:
    try:
        re.compile(block.lora.target)
    except re.error as error:
        faults.add(f"{stage}.lora.target", f"not a regular expression ({error})")
    trainer = "dpo" if stage == "dpo" else "sft"
    known = trl_fields.fields(trainer)
    for name, value in block.trl.items():
        key = f"{stage}.trl.{name}"
        if name in trl_fields.OWNED:
            faults.add(key, f"is not for the recipe: {trl_fields.OWNED[name]}")
        elif name in REFUSED:
            faults.add(key, REFUSED[name])
        elif name not in known:
            faults.add(key, f"TRL has no such option{did_you_mean(name, known)}")
        elif not _is_a(value, known[name]):
            wanted = " or ".join(_KINDS[kind] for kind in known[name])
            faults.add(key, f"expected {wanted}, got {shown(value)}")
        elif wrong := trl_fields.value_fault(trainer, name, value):
            faults.add(key, wrong)


def _is_a(value: Any, kinds: Iterable[str]) -> bool:
    if isinstance(value, int) and not isinstance(value, bool) and "float" in kinds:
        return True
    return {"NoneType": "null"}.get(type(value).__name__, type(value).__name__) in kinds
