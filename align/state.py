"""Whether a stage is done, stale (and why), unfinished, failed, or was never run.

A stage is done when its manifest says the identity that the recipe has now, and every output it names is there,
unchanged. The identity is a flat table, so that a stale stage can say what changed:

    {"seed": 0, "threads": 2, "sample.n": 4, …, "prompts file": "5c1e…", "model": "91ab…"}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from align.digest import file_sha256
from align.models.digest import TEMPLATE_SHA256
from align.recipe import Recipe, identity_options
from align.stages import STAGES, Stage
from align.train.checkpoints import COMPLETE, damage, step_of
from annotate.errors import RecordError, UserError
from annotate.records import Manifest, sha256_of
from annotate.rubric import load_rubric

ATTEMPT = ".attempt.json"
"""What a stage leaves while it is not done: {"units": 150, "error": "...", "trainings": {}}"""
NO_CHECKPOINT = "no checkpoint yet"
_ANEW = "with these options it starts at step 1"


class Digests(Protocol):
    """Hashes of the models a recipe names."""

    def model_sha256(self) -> str: ...

    def backbone_sha256(self) -> str | None: ...

    def start_sha256(self) -> str: ...

    def tower_sha256(self) -> str: ...

    def also_sha256(self) -> Mapping[str, str]:
        """Of the further models that `evaluate` compares, by the name of their row."""
        ...


@dataclass(frozen=True)
class State:
    """`why` is what `align status` prints behind the word."""

    kind: Literal["done", "stale", "unfinished", "failed", "never"]
    why: str = ""
    manifest: Manifest | None = None
    remedy: str = ""
    """And how to go on, for who only looks."""


def present(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe, in order."""
    return [stage for stage in STAGES.values() if recipe.block(stage.name) is not None]


def earlier(recipe: Recipe, stage: Stage) -> list[str]:
    """The stages of the recipe that have to be done before `stage`, in order."""
    names = {source.split("/")[0] for source in (*stage.requires, *stage.reads)}
    names |= {recipe.model_stage} if stage.uses_model and recipe.model_stage else set()
    names |= {recipe.start_stage} if stage.uses_start and recipe.start_stage else set()
    names |= {"language"} if stage.uses_backbone else set()
    return [name for name in STAGES if name in names and recipe.block(name) is not None]


def stage_identity(recipe: Recipe, stage: Stage, digests: Digests) -> tuple[dict[str, Any], dict[str, str]]:
    """What decides the result of a stage, and that part of it which is hashes of inputs.

    Earlier stages must be done. Raises `UserError` where an input cannot be read.
    """
    inputs = _inputs(recipe, stage, digests)
    identity: dict[str, Any] = {}
    if stage.seeded:
        identity["seed"] = recipe.seed
    if stage.tensors:
        identity["threads"] = recipe.threads
        identity["template"] = TEMPLATE_SHA256
    if stage.uses_prompts and recipe.prompts:
        identity |= identity_options(recipe.prompts, "prompts")
    identity |= identity_options(recipe.block(stage.name), stage.name)
    for key in stage.options:
        block, _, option = key.partition(".")
        if recipe.block(block) is not None:
            identity[key] = getattr(recipe.block(block), option)
    return {**identity, **inputs}, inputs


def _inputs(recipe: Recipe, stage: Stage, digests: Digests) -> dict[str, str]:
    found: dict[str, str] = {}
    block = recipe.block(stage.name)
    if stage.uses_prompts and recipe.prompts:
        found["prompts file"] = _hash("prompts.file", recipe.prompts.file)
    if rows := getattr(block, "rows", ""):
        found[f"{stage.name} rows"] = _hash(f"{stage.name}.rows", rows)
    for i, file in enumerate(recipe.pairs.also if recipe.pairs and stage.name == "pairs" else ()):
        found[f"pairs.also.{i} file"] = _hash("pairs.also", file)
    if recipe.annotate and (stage.name == "annotate" or "annotate.rubric" in stage.options):
        found["rubric"] = load_rubric(recipe.annotate.rubric)[0].sha256
    asked = {stage.name: block, f"{stage.name}.judge": getattr(block, "judge", None)}
    for owner, annotator in asked.items():
        for name, value in getattr(annotator, "options", {}).items():
            if isinstance(value, str) and Path(value).is_file():
                found[f"{owner}.options.{name} file"] = file_sha256(Path(value))
    if stage.name == "evaluate":
        found |= _benchmarks(recipe)
        found |= {f"also {name}": sha256 for name, sha256 in digests.also_sha256().items()}
    if stage.uses_model:
        found["model"] = digests.model_sha256()
    if stage.uses_start:
        found["model"] = digests.start_sha256()
    if stage.uses_tower:
        found["tower"] = digests.tower_sha256()
    read = recipe.language is not None and "language/model" in stage.reads  # then its files are told below
    backbone = digests.backbone_sha256() if stage.uses_backbone and not read else None
    if backbone:
        found["backbone"] = backbone
    for source in (*stage.requires, *stage.reads):
        name, _, output = source.partition("/")
        if recipe.block(name) is not None:
            found |= _outputs_below(recipe, name, output)
    return found


def _outputs_below(recipe: Recipe, name: str, output: str) -> dict[str, str]:
    manifest = read_manifest(recipe.folder / name)
    assert manifest is not None, f"identity asked for before {name} is done"
    chosen = {
        path: sha256
        for path, sha256 in manifest.outputs.items()
        if not output or path == output or path.startswith(f"{output}/")
    }
    return {f"{name}/{path}": sha256 for path, sha256 in chosen.items()}


def _benchmarks(recipe: Recipe) -> dict[str, str]:
    from align.benchmarks.published import NAMES
    from align.benchmarks.suites import find_suites

    assert recipe.evaluate is not None
    found: dict[str, str] = {}
    for name in sorted({suite.file for suite in find_suites(recipe.evaluate.suites)}):
        own = recipe.evaluate.files.get(name, {})
        for role, given in own.items():
            listed = _listing(Path(given)) if Path(given).is_dir() else given if role in NAMES else ""
            found[f"benchmark {name} {role}"] = listed or _hash(f"evaluate.files.{name}.{role}", given)
        if not own:
            file = f"{name}.jsonl"
            found[f"benchmark {file}"] = _hash("evaluate.folder", str(Path(recipe.evaluate.folder) / file))
    if recipe.evaluate.text:
        from align.benchmarks.text_rows import text_files

        for path in text_files(recipe.evaluate.text):
            found[f"benchmark {path.name}"] = _hash("evaluate.text.folder", str(path))
    judge = recipe.evaluate.judge
    if judge and judge.prompts:
        found["judge prompts"] = _hash("evaluate.judge.prompts", judge.prompts)
    return found


def _listing(folder: Path) -> str:
    """Hash of the files below a folder: what is text by its bytes, the rest, images mostly, by name and size.

    Images are many, and known by their bytes later.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    texts = {path: path.suffix in (".txt", ".json", ".jsonl", ".csv", ".tsv") for path in files}
    said = [file_sha256(path) if texts[path] else path.stat().st_size for path in files]
    return sha256_of([[path.relative_to(folder).as_posix(), one] for path, one in zip(files, said, strict=True)])


def _hash(key: str, path: str) -> str:
    try:
        return file_sha256(Path(path))
    except OSError as error:
        from align.prompts import unreadable  # its words: rarely needed

        raise unreadable(key, Path(path), error) from None


def read_manifest(folder: Path) -> Manifest | None:
    """The receipt of a finished stage, None where there is none."""
    try:
        return Manifest.from_json(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecordError) as error:
        path = folder / "manifest.json"
        what = f"is damaged ({error})" if path.stat().st_size else "is empty"
        raise UserError(f"{path}: {what}; delete it, and the stage is compiled again") from None


def state_of(recipe: Recipe, stage: Stage, digests: Digests) -> State:
    """The state of one stage, taking every earlier one into account."""
    return _states(recipe, digests)(stage.name)


def states(recipe: Recipe, digests: Digests, stages: Iterable[Stage]) -> dict[str, State]:
    """The state of each of `stages`."""
    of = _states(recipe, digests)
    return {stage.name: of(stage.name) for stage in stages}


def _states(recipe: Recipe, digests: Digests) -> Callable[[str], State]:
    @cache
    def of(name: str) -> State:
        stage = STAGES[name]
        manifest = read_manifest(recipe.folder / name)
        waiting = next((e for e in earlier(recipe, stage) if of(e).kind != "done"), None)
        if manifest is None:
            return _unfinished(recipe, name, waiting, digests)
        if waiting:
            return State("stale", f"waits for {waiting}", manifest)
        identity, _ = stage_identity(recipe, stage, digests)
        if identity != manifest.identity:
            why, remedy = changes(manifest.identity, identity), ""
            if attempt := read_attempt(recipe.folder / name):
                reached = _reached(recipe.folder / name, attempt, identity)
                why += f"; a new training has its {reached}" * bool(reached)
                remedy = _goes_on(recipe, name) if reached else _ANEW * _is_of_others(attempt, identity)
            return State("stale", why, manifest, remedy)
        for path, sha256 in manifest.outputs.items():
            file = recipe.folder / name / path
            if not file.is_file():
                return State("stale", f"{path} is gone", manifest)
            if file_sha256(file) != sha256:
                return State("stale", f"{path} was edited", manifest)
        return State("done", "", manifest)

    return of


def _unfinished(recipe: Recipe, name: str, waiting: str | None, digests: Digests) -> State:
    folder = recipe.folder / name
    attempt = read_attempt(folder)
    if not attempt:
        return State("never", f"waits for {waiting}" if waiting else "")
    identity = None if waiting or not attempt.get("trainings") else stage_identity(recipe, STAGES[name], digests)[0]
    reached = _reached(folder, attempt, identity)
    remedy = _goes_on(recipe, name) * bool(reached)
    if _is_of_others(attempt, identity) and not reached:
        return State("never", "a training with other options was begun", remedy=_ANEW)
    if attempt["error"]:
        return State("failed", "; ".join(filter(None, [attempt["error"], reached])), remedy=remedy)
    if not reached and hasattr(recipe.block(name), "checkpoint_every"):
        return State("unfinished", NO_CHECKPOINT, remedy=f"`{recipe.command(name)}` begins at step 1")
    try:
        lines = (folder / "journal.jsonl").read_bytes().count(b"\n")
    except OSError:
        lines = 0
    return State("unfinished", reached or f"{min(lines, attempt['units'])} of {attempt['units']} units", remedy=remedy)


def _goes_on(recipe: Recipe, name: str) -> str:
    return f"`{recipe.command(name)}` goes on from there"


def read_attempt(folder: Path) -> dict[str, Any]:
    """What a stage left while it was not done; empty where there is nothing, or nothing that can be read.

    `trainings`: of one that trains, `training_sha256` -> the folder below `work` that has its checkpoints; that of the
    last attempt comes last.
    """
    try:
        read = json.loads((folder / ATTEMPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def training_sha256(identity: Mapping[str, Any]) -> str:
    """Under which a training's checkpoints are found again; the number of threads does not keep it from going on."""
    return sha256_of({key: value for key, value in identity.items() if key != "threads"})


def _is_of_others(attempt: Mapping[str, Any], identity: Mapping[str, Any] | None) -> bool:
    """Whether what was begun last is a training with other options than these."""
    trainings = list(attempt.get("trainings", ()))
    return bool(trainings) and identity is not None and trainings[-1] != training_sha256(identity)


def _reached(folder: Path, attempt: Mapping[str, Any], identity: Mapping[str, Any] | None) -> str:
    """How far the training with these options came: its newest whole checkpoint. Empty where there is none.

    Without an identity, and of a run that is older than `trainings`: the newest of all.
    """
    trainings: Mapping[str, str] = attempt.get("trainings", {})
    known = bool(trainings) and identity is not None
    work = folder / "work" / trainings.get(training_sha256(identity), "none") if known and identity else folder / "work"
    depth = "" if known else "*/"
    whole = []
    for marker in [*work.glob(f"{depth}checkpoint-*.done"), *work.glob(f"{depth}checkpoints/checkpoint-*/complete")]:
        checkpoint = marker.parent if marker.name == COMPLETE else marker.with_suffix("")
        if not damage(checkpoint, marker, hashes=False):
            whole.append((_changed(marker), checkpoint))
    if not whole:
        return ""
    _, checkpoint = max(whole)
    step = str(step_of(checkpoint))
    with suppress(OSError, ValueError, KeyError):  # a training that runs removes old ones
        step += f" of {json.loads((checkpoint / 'trainer_state.json').read_text(encoding='utf-8'))['max_steps']}"
    return f"last checkpoint at step {step}"


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # as above
        return 0


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two identities, in words: `sample.n was 4, is 8; prompts file changed`."""
    told = []
    for key in dict.fromkeys((*now, *before)):
        if key not in before:
            told.append(f"{key} is new")
        elif key not in now:
            told.append(f"{key} is gone")
        elif before[key] != now[key]:
            hashed = isinstance(now[key], str) and len(now[key]) in (40, 64)
            told.append(f"{key} changed" if hashed else f"{key} was {_short(before[key])}, is {_short(now[key])}")
    more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    return "; ".join(told[:3]) + more


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
