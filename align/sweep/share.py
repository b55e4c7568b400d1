"""What the runs of a sweep take from each other, so that nothing is sampled, bought or trained twice.

Two things are taken. A *finished stage* whose identity is the one that is wanted: its files are linked, not copied,
where the file system can. And *lines of a journal*: the answers of the untouched model to the benchmarks, a reply of
the annotator to the very same request. Both are found by what decides them (identity, key of the unit), so it does not
matter which run made them first, nor what its folder is called.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from align.account import failed, price
from align.console import Console
from align.recipe import Recipe, identity_options
from align.runner import Prompted, Runner
from align.settings import Prompts
from align.stages import STAGES, Stage
from align.state import earlier, present, read_manifest, stage_identity, state_of, states
from align.workspace import _NEW, StageFolder, locked
from annotate.errors import UserError
from annotate.journal import Journal, read_journal
from annotate.records import sha256_of
from annotate.stage import Line, Unit, Work

BY_LINES = ("sample", "annotate", "teach", "evaluate")
"""Stages whose lines say all: those of a training only tell of weights that lie beside them."""


class Kin:
    """The runs that share with each other: what each has finished, and the keys of its journals."""

    def __init__(self, runs: Iterable[Path]) -> None:
        self._finished: dict[tuple[str, str], Path] = {}
        self._keys: dict[str, dict[str, Path]] = {name: {} for name in BY_LINES}
        self._prompts: dict[Prompts | None, Prompted] = {}
        for run in runs:
            self.add(run)

    def add(self, run: Path) -> None:
        """Look at what a run has now."""
        for folder in sorted(path.parent for path in run.glob("*/manifest.json")):
            manifest = _manifest(folder)
            if manifest is not None:
                self._finished.setdefault((manifest.stage, manifest.identity_sha256), folder)
        for name, keys in self._keys.items():
            journal = run / name / "journal.jsonl"
            for key in _lines(journal):
                keys.setdefault(key, journal)

    def finished(self, stage: str, identity: Mapping[str, Any]) -> Path | None:
        """The folder of a finished stage of this identity."""
        return self._finished.get((stage, sha256_of(identity)))

    def lines(self, stage: str, wanted: Iterable[str]) -> dict[str, Line]:
        """The lines of these keys that some run has written."""
        keys = self._keys.get(stage, {})
        journals = {keys[key] for key in wanted if key in keys}
        found = {key: line for journal in sorted(journals) for key, line in _lines(journal).items()}
        return {key: found[key] for key in wanted if key in found}

    def prompts(self, recipe: Recipe) -> Prompted:
        """Prompts are checked once for all runs that have the same."""
        return self._prompts.setdefault(recipe.prompts, Prompted(recipe))


def _manifest(folder: Path) -> Any:
    try:
        return read_manifest(folder)
    except UserError:
        return None


def _lines(journal: Path) -> dict[str, Line]:
    """A journal that cannot be read is no help; whoever owns it is told when it is opened."""
    try:
        return read_journal(journal)
    except (UserError, OSError):
        return {}


class SharingRunner(Runner):
    """A runner that takes what it can from other runs before it does anything itself."""

    def __init__(self, recipe: Recipe, console: Console, kin: Kin, *, yes: bool = False) -> None:
        super().__init__(recipe, console, yes=yes)
        self.kin = kin
        self._ready: list[str] = []
        self.prompts = kin.prompts(recipe)

    def bring(self, target: str | None) -> None:
        """What lies ready is taken before the input is checked, which then has less to check."""
        with locked(self.recipe.folder):
            stages = present(self.recipe)
            known = states(self.recipe, self.models, stages)
            for stage in takewhile(lambda s: known[s.name].kind == "done" or self._adopted(s), stages):
                self._ready.append(stage.name)
        if self._ready:
            self.console.tell("shared", f"{', '.join(self._ready)}: ready", stages=self._ready)
        super().bring(target)

    def _bring(self, stage: Stage, target: str | None) -> None:
        if stage.name not in self._ready and not self._adopted(stage):
            super()._bring(stage, target)

    def _adopted(self, stage: Stage) -> bool:
        """Whether the stage is done, if need be by taking what another run has."""
        before = earlier(self.recipe, stage)
        known = states(self.recipe, self.models, [*(STAGES[name] for name in before), stage])
        if known[stage.name].kind == "done":
            return True
        if any(known[name].kind != "done" for name in before):
            return False
        identity, _ = stage_identity(self.recipe, stage, self.models)
        source = self.kin.finished(stage.name, identity)
        if source is None or source == self.recipe.folder / stage.name:
            return False
        adopt(source, self.recipe.folder, stage.name)
        # What lies there may have been edited since: then it is done anew.
        done = state_of(self.recipe, stage, self.models).kind == "done"
        if done:
            self.console.tell("stage", f"{stage.name}: as in {source.parent}", stage=stage.name, state="shared")
        return done

    def _ask_before_spending(self, stage: Stage, work: Work, pending: Sequence[Unit], target: str | None) -> None:
        """A budget is one stage's: it does not say that every point or round may spend as much again."""
        taken = self._taken(stage, work, pending)
        estimate = work.estimate([u for u in pending if u.key not in taken])
        if estimate.paid and len(taken) < len(pending) and not self.yes:
            raise UserError(
                f"{stage.name} would spend money in {self.recipe.folder}: {price(estimate)}. Add --yes to go on; a "
                "budget_usd then holds for each run, not for all of them"
            )

    def _execute(
        self,
        stage: Stage,
        work: Work,
        units: Sequence[Unit],
        pending: Sequence[Unit],
        journal: Journal,
        folder: StageFolder,
    ) -> None:
        taken = self._taken(stage, work, pending)
        for unit in pending:
            if unit.key in taken:
                journal.append(unit.key, taken[unit.key])
        if taken:
            text = f"  {len(taken)} of {len(units)} units as in another run"
            self.console.tell("shared", text, stage=stage.name, units=len(taken))
        super()._execute(stage, work, units, [u for u in pending if u.key not in taken], journal, folder)

    def _taken(self, stage: Stage, work: Work, pending: Sequence[Unit]) -> dict[str, Line]:
        """The lines of other runs for what is pending; one that came to nothing is not worth taking."""
        found = self.kin.lines(stage.name, [u.key for u in pending])
        return {u.key: found[u.key] for u in pending if u.key in found and not failed(work, u, found[u.key])}


def adopt(source: Path, run: Path, stage: str) -> None:
    """A finished stage of another run becomes this run's: outputs linked, manifest last."""
    manifest = read_manifest(source)
    assert manifest is not None, f"{source} was finished a moment ago"
    before = read_manifest(run / stage)
    folder = StageFolder(run, stage)
    new = folder.path / _NEW
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(parents=True)
    for name in manifest.outputs:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        _link(source / name, new / name)
    folder.publish(manifest, before, keep_old=True)


def _link(source: Path, target: Path) -> None:
    """Outputs are only ever replaced whole, so two runs can hold one file."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return  # gone since: the stage will be found wanting, and is done anew
    except OSError:
        shutil.copyfile(source, target)


# ---------------------------------------------------------------------------------------------------------- foresight


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """Stage -> what decides it as far as the recipe alone can tell; equal in two recipes: surely made only once.

    Unlike an identity it needs nothing to be done yet: where that names the hash of an input, this names the options
    that the input comes from.
    """
    found: dict[str, str] = {}
    for stage in present(recipe):
        block = recipe.block(stage.name)
        decides: dict[str, Any] = {"seed": recipe.seed, **identity_options(block, stage.name)}
        decides |= {name: getattr(block, name) for name in ("rows", "folder", "also", "tower") if hasattr(block, name)}
        if stage.tensors:
            decides["threads"] = recipe.threads
        if stage.uses_prompts and recipe.prompts:
            decides |= {"prompts.file": recipe.prompts.file, **identity_options(recipe.prompts, "prompts")}
        if stage.uses_model or stage.uses_start:
            decides["model"] = recipe.model
        if stage.uses_backbone:
            decides["backbone"] = recipe.backbone
        for key in stage.options:
            block_name, _, option = key.partition(".")
            if recipe.block(block_name) is not None:
                decides[key] = getattr(recipe.block(block_name), option)
        decides |= {name: found[name] for name in earlier(recipe, stage)}
        found[stage.name] = sha256_of(decides)
    return found
