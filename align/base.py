"""Which model a recipe means: a folder, a hub name, or another recipe that trains it.

`model: recipes/demo_base.yaml` is the model that the recipe's last tuning stage makes (and as `backbone:`, what
its `language` makes): the one in `runs/` when it is current, else the trained copy that ships with the repository,

    data/demo_base/base.json   {"recipe_sha256": "…", "seed": 0, "dev": {…}}
    data/demo_base/language/   data/demo_base/vlm/

when that was trained by exactly this recipe. A copy of another recipe is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from align.digest import model_digest
from align.recipe import Recipe, identity_options, load_recipe
from align.stages import STAGES
from align.state import state_of
from annotate.errors import UserError
from annotate.records import sha256_of

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "demo_base"
_BASE_STAGES = ("language", "connect", "tune")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A model on this machine; `note` says which one was taken, for the reader."""

    path: Path
    sha256: str
    note: str


class Models:
    """The models of one recipe, looked up when first needed."""

    def __init__(self, recipe: Recipe, shipped: Path = SHIPPED) -> None:
        """`shipped`: the folder of the trained copy."""
        self.recipe, self.shipped = recipe, shipped

    @cached_property
    def model(self) -> Resolved:
        """Raises `UserError` with a remedy where there is none."""
        if stage := self.recipe.model_stage:
            return _own(self.recipe, stage)
        return self._named

    @cached_property
    def start(self) -> Resolved:
        """What stage `instruct` begins with."""
        if stage := self.recipe.start_stage:
            return _own(self.recipe, stage)
        return self._named

    @cached_property
    def _named(self) -> Resolved:
        return resolve(self.recipe.model, key="model", stage="tune", shipped=self.shipped / "vlm")

    @cached_property
    def tower(self) -> Resolved:
        """The vision tower that stage `pretrain` takes."""
        assert self.recipe.pretrain is not None
        return resolve(self.recipe.pretrain.tower, key="pretrain.tower", stage="", shipped=self.shipped)

    @cached_property
    def backbone(self) -> Resolved | None:
        if self.recipe.language is not None:
            return _own(self.recipe, "language")
        if not self.recipe.backbone:
            return None
        return resolve(self.recipe.backbone, key="backbone", stage="language", shipped=self.shipped / "language")

    @cached_property
    def also(self) -> Mapping[str, Resolved]:
        """The further models that `evaluate` compares, by the name of their row. Faults of all of them at once."""
        found: dict[str, Resolved] = {}
        faults: list[str] = []
        for name, where in (self.recipe.evaluate.also if self.recipe.evaluate else {}).items():
            try:
                found[name] = resolve(where, key=f"evaluate.also.{name}", stage="tune", shipped=None)
            except UserError as error:
                faults += error.faults
        if faults:
            raise UserError(*faults)
        return found

    def model_sha256(self) -> str:
        return self.model.sha256

    def backbone_sha256(self) -> str | None:
        return self.backbone.sha256 if self.backbone else None

    def start_sha256(self) -> str:
        return self.start.sha256

    def tower_sha256(self) -> str:
        return self.tower.sha256

    def also_sha256(self) -> Mapping[str, str]:
        return {name: model.sha256 for name, model in self.also.items()}


def base_recipe_sha256(recipe: Recipe) -> str:
    """What decides the weights of a base: seed and options of `language`, `connect`, `tune`; no path, no comment."""
    options: dict[str, object] = {"seed": recipe.seed}
    for stage in _BASE_STAGES:
        if recipe.block(stage) is not None:
            options |= identity_options(recipe.block(stage), stage)
    return sha256_of(options)


def resolve(name: str, *, key: str, stage: str, shipped: Path | None) -> Resolved:
    """The model called `name` under `key` of a recipe; `shipped`: the folder of its trained copy, if there can be one.

    Raises `UserError` with a remedy.
    """
    if name.endswith((".yaml", ".yml")):
        return _of_recipe(load_recipe(name), key, stage, shipped)
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"{key}: {name} holds no config.json; give a checkpoint in Hugging Face layout")
        return _folder(Path(name), name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{key}: {name} is no folder; give a folder, a hub name (owner/model) or a recipe")
    return _from_hub(name, key)


def _own(recipe: Recipe, stage: str) -> Resolved:
    return _folder(recipe.folder / stage / "model", f"trained by {recipe.path}, stage {stage}")


def _folder(path: Path, note: str) -> Resolved:
    return Resolved(path=path, sha256=model_digest(path), note=note)


def _of_recipe(base: Recipe, key: str, stage: str, shipped: Path | None) -> Resolved:
    if stage == "language" and base.backbone:
        return Models(base).backbone or _nothing(base, key, stage)
    if stage == "tune":
        stage = base.model_stage or base.start_stage or stage
    if base.block(stage) is None:
        return _nothing(base, key, stage)
    state = state_of(base, STAGES[stage], Models(base))
    if state.kind == "done":
        return _own(base, stage)
    trained = base.folder / stage
    remedy = f"train it with `align {stage} {base.path}`" + " (the demo's: make demo-base)" * bool(shipped)
    receipt = shipped.parent / "base.json" if shipped else None
    if not shipped or not receipt or not receipt.is_file() or stage not in ("tune", "language"):
        raise UserError(f"{key}: {trained} is not there ({state.kind}); {remedy}")
    try:
        found = json.loads(receipt.read_text(encoding="utf-8"))
        trained_by, seed = found["recipe_sha256"], found["seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{receipt}: is no receipt of a base ({error!r}); {remedy}") from None
    if trained_by != base_recipe_sha256(base):
        raise UserError(
            f"{key}: {trained} is not there ({state.kind}), and the model in {shipped.parent} was trained by another "
            f"version of {base.path}; {remedy}"
        )
    return _folder(shipped, f"shipped, trained by {base.path} with seed {seed}")


def _from_hub(name: str, key: str) -> Resolved:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError:
        raise UserError(f"{key}: {name} is on the hub; to fetch it: pip install 'mmalign[train]'") from None
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    try:
        path = Path(snapshot_download(name, ignore_patterns=["*.pth", "*.msgpack", "*.h5", "original/*"]))
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set and it is not in the cache" if offline else "it is not cached and the hub is away"
        raise UserError(f"{key}: {name} cannot be had ({why}); fetch it once, or give a folder") from None
    except (HfHubHTTPError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{key}: the hub does not give {name} ({reason}); is the name right? hf auth login?") from None
    # A snapshot's folder is named by its commit.
    return Resolved(path=path, sha256=path.name, note=f"{name} at {path.name[:8]}")


def _nothing(base: Recipe, key: str, stage: str) -> NoReturn:
    raise UserError(f"{key}: {base.path} has no `{stage}` block, so it trains no such model")
