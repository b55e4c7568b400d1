"""Runs the stages of a recipe: plan, execute, compile; skips what is done, goes on with what was cut short.

    Runner(recipe, console).bring("dpo")     everything `dpo` needs, then `dpo`
    Runner(recipe, console).bring(None)      all stages of the recipe

A stage plans its units, each known by a hash of everything that decides its result. Those the journal does not hold yet
are executed, each line synced as it is done; then all files are compiled from the journal in plan order. Killed at any
moment and run again, the files end with the same bytes.
"""

from __future__ import annotations

import errno
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from align.account import counts, failed, outputs_of, price, recall
from align.base import Models, Resolved
from align.console import Console
from align.context import PromptSet
from align.inputs import gathered, input_faults, missing_packages
from align.recipe import Recipe
from align.stages import STAGES, Stage, make_work
from align.state import NO_CHECKPOINT, State, earlier, present, stage_identity, state_of, states, training_sha256
from align.workspace import StageFolder, commit, locked
from annotate.errors import MmalignError, UserError
from annotate.journal import Journal
from annotate.jsonl import read_records
from annotate.records import Manifest, Record, sha256_of
from annotate.stage import Compiled, Line, Unit, Work

R = TypeVar("R", bound=Record)
_IN_THE_WAY = "a file stands where a folder must be"
_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota is used up",
    errno.EFBIG: "a file may not grow further",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
}
_FULL = tuple(_DISK[number] for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class RunContext:
    """What one stage is handed (see `align.context.Context`)."""

    def __init__(self, recipe: Recipe, stage: str, models: Models, prompts: Prompted) -> None:
        self.recipe, self.stage = recipe, stage
        self._models, self._prompts = models, prompts

    @property
    def model(self) -> Path:
        return self._models.model.path

    @property
    def model_sha256(self) -> str:
        return self._models.model.sha256

    @property
    def model_note(self) -> str:
        return self._models.model.note

    @property
    def start(self) -> Path:
        return self._models.start.path

    @property
    def start_sha256(self) -> str:
        return self._models.start.sha256

    @property
    def tower(self) -> Path:
        return self._models.tower.path

    @property
    def tower_sha256(self) -> str:
        return self._models.tower.sha256

    @property
    def backbone(self) -> Path | None:
        return self._models.backbone.path if self._models.backbone else None

    @property
    def backbone_sha256(self) -> str | None:
        return self._models.backbone_sha256()

    @property
    def also(self) -> Mapping[str, Resolved]:
        return self._models.also

    def prompts(self) -> PromptSet:
        return self._prompts.checked

    def has(self, stage: str) -> bool:
        return self.recipe.block(stage) is not None

    def records(self, stage: str, file: str, kind: type[R]) -> Sequence[R]:
        return tuple(read_records(self.path(stage, file), kind))

    def path(self, stage: str, name: str) -> Path:
        return self.recipe.folder / stage / name


class Prompted:
    """The prompts of a recipe, read and checked once per process."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @cached_property
    def checked(self) -> PromptSet:
        from align.prompts import load_prompts

        if self.recipe.prompts is None:
            raise UserError(f"{self.recipe.path}  prompts: add `prompts: {{file: ..., image_root: ...}}`")
        return load_prompts(self.recipe.prompts)


class Runner:
    """One verb on one recipe."""

    def __init__(
        self, recipe: Recipe, console: Console, *, yes: bool = False, retry: bool = False, reparse: bool = False
    ) -> None:
        """`yes`: spend without asking. Of the stage that is asked for, `retry`: ask again for what failed;
        `reparse`: read again what was replied, and ask nothing.
        """
        self.recipe, self.console, self.yes, self.retry, self.reparse = recipe, console, yes, retry, reparse
        self.models = Models(recipe)
        self.prompts = Prompted(recipe)
        self._model_told = False

    def context(self, stage: Stage) -> RunContext:
        return RunContext(self.recipe, stage.name, self.models, self.prompts)

    def bring(self, target: str | None) -> None:
        """Bring one stage, or the whole recipe, up to date."""
        stages = self._needed(target)
        self._check(stages)
        command = self.console.command or self.recipe.command(target or "run")
        with _disk_errors(self.recipe.folder, command), locked(self.recipe.folder):
            for stage in stages:
                self._bring(stage, target)

    def _needed(self, target: str | None) -> list[Stage]:
        """`target` and every stage before it that it works on, in order."""
        if target is None:
            return present(self.recipe)
        if self.recipe.block(target) is None:
            raise UserError(f"{self.recipe.path}: has no stage `{target}`; add `{target}: {{}}` to run it")
        names, queue = set(), [target]
        while queue:
            name = queue.pop()
            names.add(name)
            queue += earlier(self.recipe, STAGES[name])
        return [stage for stage in present(self.recipe) if stage.name in names]

    def _check(self, stages: Sequence[Stage]) -> None:
        """What the user handed in, whole, before any work. Raises `UserError` with everything that is wrong."""
        faults: list[str] = []
        if any(s.uses_model for s in stages) and self.recipe.model_stage is None:
            with gathered(faults):
                _ = self.models.model
        if any(s.uses_start for s in stages) and self.recipe.start_stage is None:
            with gathered(faults):
                _ = self.models.start
        if any(s.uses_tower for s in stages):
            with gathered(faults):
                _ = self.models.tower
        if any(s.uses_backbone for s in stages) and self.recipe.language is None:
            with gathered(faults):
                _ = self.models.backbone
        if any(s.name == "evaluate" for s in stages):
            with gathered(faults):
                _ = self.models.also
        if faults:
            raise UserError(*map(self.recipe.placed, faults))
        known = states(self.recipe, self.models, stages)
        ahead = [s for s in stages if known[s.name].kind != "done"]
        faults += missing_packages(self.recipe, ahead)
        if any(s.uses_prompts for s in ahead):
            with gathered(faults):
                _ = self.prompts.checked
        named = self.recipe.model_stage is None and any(s.uses_model for s in ahead)
        model = self.models.model.path if named else None
        faults += input_faults(self.recipe, ahead, asking=not self.reparse, model=model)
        if faults:
            raise UserError(*map(self.recipe.placed, faults))

    def _bring(self, stage: Stage, target: str | None) -> None:
        state = state_of(self.recipe, stage, self.models)
        retry, reparse = self.retry and stage.name == target, self.reparse and stage.name == target
        if state.kind == "done" and state.manifest and not (retry or reparse):
            shown = f"{stage.name}: up to date ({counts(state.manifest)})"
            self.console.tell("stage", shown, stage=stage.name, state="up to date", outputs=outputs_of(state.manifest))
            return
        self._tell_start(stage, state, "reads its replies again" if reparse else "")
        identity, inputs = stage_identity(self.recipe, stage, self.models)
        work = make_work(stage, self.context(stage))
        units = _checked(stage, work.units)
        folder = StageFolder(self.recipe.folder, stage.name)
        folder.path.mkdir(parents=True, exist_ok=True)
        with Journal(folder.journal) as journal:
            # What failed may succeed under other options (a fuller file of replies); what came out well is kept, and
            # what has a price is asked again only where that is said.
            again = retry or (state.kind == "stale" and not getattr(work, "paid", False) and not reparse)
            lines = journal.lines
            pending = [u for u in units if u.key not in lines or (again and failed(work, u, lines[u.key]))]
            if reparse and pending:
                raise UserError(
                    f"{stage.name}: {len(pending)} of {len(units)} requests have no reply yet; say "
                    f"`{self.recipe.command(stage.name)}` first"
                )
            recall(work, lines, folder.workspace)
            self._ask_before_spending(stage, work, pending, target)
            block = self.recipe.block(stage.name)
            trains = hasattr(block, "checkpoint_every") or hasattr(block, "save_every")
            folder.begin(len(units), (training_sha256(identity), units[0].key[:16]) if trains else None)
            try:
                self._execute(stage, work, units, pending, journal, folder)
                compiled = work.compile({u.key: journal.lines[u.key] for u in units}, folder.workspace)
                _balanced(stage, compiled)
                outputs = folder.stage_outputs(compiled)
            except Exception as error:
                folder.failed(str(error) or type(error).__name__)
                raise
            seconds = sum(journal.seconds[u.key] for u in units)
            manifest = self._manifest(stage, identity, inputs, outputs, compiled, seconds)
            kept = folder.publish(manifest, state.manifest, keep_old=stage.name != "report")
        self._tell_done(stage, manifest, kept, compiled.told)

    def _manifest(
        self,
        stage: Stage,
        identity: Mapping[str, Any],
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        compiled: Compiled,
        seconds: float,
    ) -> Manifest:
        return Manifest(
            stage=stage.name,
            identity_sha256=sha256_of(identity),
            identity=dict(identity),
            inputs=dict(inputs),
            outputs=dict(outputs),
            units=compiled.units,
            failures=compiled.failures,
            funnel=dict(compiled.funnel),
            seeds={"seed": self.recipe.seed} if stage.seeded else {},
            versions=_versions(stage),
            commit=commit(),
            cost_usd=compiled.cost_usd,
            seconds=round(seconds, 3),
        )

    def _tell_start(self, stage: Stage, state: State, what: str = "") -> None:
        why = f" ({state.why})" if state.why else ""
        what = what or ("begins again" if state.why == NO_CHECKPOINT else _STARTS[state.kind])
        text = f"{stage.name}: {what}{why}"
        self.console.tell("stage", text, stage=stage.name, state="started", was=state.kind, why=state.why)
        if stage.uses_model and not self._model_told:
            note = self.models.model.note
            self.console.tell("model", f"model: {note}", note=note, sha256=self.models.model.sha256)
            self._model_told = True

    def _ask_before_spending(self, stage: Stage, work: Work, pending: Sequence[Unit], target: str | None) -> None:
        """Stop before money is spent on something that was not asked for by its name or with a budget."""
        if not pending or self.yes or target == stage.name:
            return
        block = self.recipe.block(stage.name)
        asked = getattr(block, "judge", None) or block
        if target is None and getattr(asked, "budget_usd", None) is not None:
            return
        estimate = work.estimate(pending)
        if estimate.paid:
            raise UserError(
                f"{stage.name} would spend money: {price(estimate)}. Say `{self.recipe.command(stage.name)}` "
                "to run it, add --yes, or set its budget_usd and say `align run`"
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
        if stage.tensors and self.recipe.threads and pending:
            _set_threads(self.recipe.threads)
        total = sum(u.records for u in units)
        bar = self.console.bar(stage.name, total, total - sum(u.records for u in pending))
        records = {u.key: u.records for u in pending}
        counting = threading.Lock()

        def finished(key: str, line: Line) -> None:  # any thread may call
            journal.append(key, line)
            with counting:
                if key not in records:
                    raise AssertionError(f"{stage.name}: unit {key} was not pending, or is done twice")
                del records[key]
                there = total - sum(records.values())
                bar.set(*((bar.total, bar.total) if len(units) == 1 else (max(bar.done, there), bar.total)), bar.note)

        begun: list[int] = []  # where the bar stood when the steps began

        def progress(done: int, total: int, note: str = "") -> None:
            # A stage of one unit counts its own steps, and so does one that says so; elsewhere it is units.
            with counting:
                begun[:] = begun or [bar.done]
                if len(units) == 1:
                    bar.set(done, total, note)
                elif getattr(work, "counts_steps", False):
                    bar.set(max(bar.done, begun[0] + (bar.total - begun[0]) * done // total), bar.total, note)
                else:
                    bar.set(bar.done, bar.total, note)

        try:
            recall(work, journal.lines, folder.workspace)
            if pending:
                work.execute(pending, finished, folder.workspace, progress)
        finally:
            bar.close()
        if records:
            raise AssertionError(f"{stage.name}: {len(records)} unit(s) ended without a line")

    def _tell_done(self, stage: Stage, manifest: Manifest, kept: Path | None, told: str) -> None:
        lines = [f"{stage.name}: done, {counts(manifest)}"]
        if manifest.funnel:
            lines.append("  " + " · ".join(f"{name} {count}" for name, count in manifest.funnel.items()))
        if manifest.cost_usd:
            lines.append(f"  cost ${manifest.cost_usd:.2f}")
        lines += [f"  {line}" for line in told.splitlines()]
        if kept:
            lines.append(f"  the earlier outputs are in {kept}")
        self.console.tell(
            "stage", "\n".join(lines), stage=stage.name, state="done", units=manifest.units,
            outputs=outputs_of(manifest), failures=manifest.failures,
            funnel=manifest.funnel, cost_usd=manifest.cost_usd, seconds=manifest.seconds,
            superseded=str(kept) if kept else None,
        )  # fmt: skip


_STARTS: Mapping[str, str] = {
    "never": "starts",
    "stale": "stale",
    "unfinished": "goes on",
    "failed": "tries again",
    "done": "asks again for what failed",
}


def _checked(stage: Stage, units: Sequence[Unit]) -> Sequence[Unit]:
    if len({u.key for u in units}) != len(units):
        raise AssertionError(f"{stage.name}: two units have one key")
    return units


def _balanced(stage: Stage, compiled: Compiled) -> None:
    """Every record that went in is accounted for."""
    if compiled.outputs + compiled.failures != compiled.units:
        raise AssertionError(
            f"{stage.name}: {compiled.outputs} outputs + {compiled.failures} failures are not {compiled.units} units"
        )


def _versions(stage: Stage) -> dict[str, str]:
    wanted = ["mmalign", "numpy", *(("torch", "transformers", "trl", "peft") if stage.tensors else ())]
    found = {}
    for name in wanted:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


@contextmanager
def _disk_errors(folder: Path, command: str) -> Iterator[None]:
    """A disk that cannot be written to is the user's to mend: one line, what is done so far is kept."""
    try:
        yield
    except MmalignError:
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UserError(_disk_fault(str(error.filename or folder), _DISK[error.errno], command)) from error
    except Exception as error:
        # Libraries wrap the error of a full disk in their own; those in Rust tell its number.
        told = re.search(r"os error (\d+)", str(error))
        if told and int(told[1]) in _DISK:
            raise UserError(_disk_fault(str(folder), _DISK[int(told[1])], command)) from error
        if folder.is_dir() and shutil.disk_usage(folder).free < 1 << 20:
            raise UserError(_disk_fault(str(folder), _DISK[errno.ENOSPC], command)) from error
        raise


def _disk_fault(where: str, why: str, command: str) -> str:
    remedy = {_IN_THE_WAY: "move that file away", **dict.fromkeys(_FULL, "make room")}.get(why, "make it writable")
    return f"{where} cannot be written ({why}); what is done so far is kept: {remedy} and run `{command}`"
