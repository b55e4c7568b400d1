"""The stages `language`, `connect` and `tune` as the runner sees them: one unit, a model folder out.

They build a VLM from nothing (the demo's base); rows come from the file that the block names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from align.context import Context
from align.digest import model_digest
from align.train.rows import Conversation, Patches
from annotate.errors import UserError
from annotate.jsonl import read_records
from annotate.records import Record, sha256_of
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit

R = TypeVar("R", bound=Record)
Train = Callable[[Sequence[Any], Path, Path, Callable[[int, int, float], None]], list[dict[str, Any]]]
"""(rows, workspace, out, progress) -> log rows."""


class BuiltWork:
    """One training run; its checkpoints lie in a folder named by the unit's key, so that no other run resumes them."""

    def __init__(self, *, rows: Sequence[Record], identity: Mapping[str, Any], train: Train) -> None:
        self.rows, self.train = rows, train
        self.units = [Unit(sha256_of(identity), None, len(rows))]

    def _folder(self, workspace: Path) -> Path:
        return workspace / self.units[0].key[:16]

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        folder = self._folder(workspace)

        def tell(step: int, steps: int, loss: float) -> None:
            progress(step, steps, f"loss {loss:.3f}")

        from align.models.quiet import quiet

        for unit in pending:
            with quiet():
                log = self.train(self.rows, folder / "checkpoints", folder / "model", tell)
            done(unit.key, {"log": log})

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        log = lines[self.units[0].key]["log"]
        return Compiled(
            files={"model": self._folder(workspace) / "model", "log.jsonl": log},
            units=len(self.rows),
            outputs=len(self.rows),
            failures=0,
            funnel={"rows": len(self.rows), "log rows": len(log)},
        )

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        return Estimate(calls=0, cached=1 - len(pending))


def _rows(path: str, kind: type[R]) -> list[R]:
    rows = list(read_records(Path(path), kind))
    if not rows:
        raise UserError(f"{path}: no rows; `make demo-base-data` writes the demo's")
    return rows


def _identity(context: Context, settings: Any, rows: Sequence[Record], **models: str) -> dict[str, Any]:
    options = {k: v for k, v in asdict(settings).items() if k not in ("rows", "image_root", "save_every")}
    return {
        "stage": context.stage,
        "seed": context.recipe.seed,
        "options": options,
        "rows": sha256_of([row.to_json() for row in rows]),
        **models,
    }


def language(context: Context) -> BuiltWork:
    """A Llama and its tokenizer from text dialogues."""
    settings = context.recipe.language
    assert settings is not None
    rows = _rows(settings.rows, Conversation)

    def train(rows: Sequence[Any], workspace: Path, out: Path, progress: Any) -> list[dict[str, Any]]:
        from align.train.language import train_language

        return train_language(rows, settings, context.recipe.seed, workspace, out, progress)

    return BuiltWork(rows=rows, identity=_identity(context, settings, rows), train=train)


def connect(context: Context) -> BuiltWork:
    """Tower and projector joined to the language model."""
    named = context.backbone if context.recipe.language is None else None
    model = named or context.path("language", "model")
    return _on_images(context, Patches, model, train="align.train.connect:train_connect")


def tune(context: Context) -> BuiltWork:
    """Visual instruction tuning of projector and language model."""
    return _on_images(context, Conversation, context.path("connect", "model"), train="align.train.tune:train_tune")


def _on_images(context: Context, kind: type[Record], model: Path, *, train: str) -> BuiltWork:
    """What goes on from `model`; `train` is `module:function`, imported when it runs."""
    settings = context.recipe.block(context.stage)
    rows = _rows(settings.rows, kind)
    module, _, function = train.partition(":")

    def run(rows: Sequence[Any], workspace: Path, out: Path, progress: Any) -> list[dict[str, Any]]:
        called = getattr(import_module(module), function)
        log: list[dict[str, Any]] = called(
            rows, model, Path(settings.image_root), settings, context.recipe.seed, workspace, out, progress
        )
        return log

    return BuiltWork(rows=rows, identity=_identity(context, settings, rows, model=model_digest(model)), train=run)
