"""The stages that train with TRL as the runner sees them: one unit, one training, one adapter.

Out: `adapter/` (PEFT, safetensors), or `model/` where none was trained, `log.jsonl` with one line per optimizer step,

    {"step": 1, "learning_rate": 0.0003, "loss": 0.6931471824645996, "rewards/margins": 0.0, …}

`failures.jsonl` with the rows that could not be trained on, `card.md`, of `pretrain` and `instruct` `tokens.json` (see
`align.train.counted`), and of `instruct` `snapshots/step-N/`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from align.context import Context
from align.digest import file_sha256
from align.models.digest import TEMPLATE_SHA256
from align.models.merge import merge_adapter
from align.settings import Train
from align.train import checkpoints, ranks
from align.train.card import adapter_card
from align.train.counted import account, notes_of
from align.train.lora_rows import TrainRow, rows_sha256
from align.train.lora_run import Method, check_options, train_lora
from align.train.sampled import Sampled
from align.train.saved import kind, weights_sha256
from annotate.errors import UserError
from annotate.jsonl import dump_line
from annotate.records import Failure, sha256_of
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit


def _beside_defaults(settings: Train, *names: str) -> dict[str, Any]:
    """Options that are newer than runs that exist: they count where they are used."""
    used, defaults = dataclasses.asdict(settings), dataclasses.asdict(Train())
    return {name: used[name] for name in names if used[name] != defaults[name]}


class LoraWork:
    """One training. Light until `execute`: no torch."""

    def __init__(
        self,
        context: Context,
        *,
        stage: str,
        method: Method,
        rows: Sequence[TrainRow],
        beside: Mapping[str, str] | None = None,
        sampled: Sampled | None = None,
        start: tuple[Path | Callable[[Path], Path], str] | None = None,
        left_out: Sequence[Failure] = (),
        funnel: Mapping[str, int] | None = None,
        merged: bool = False,
        counted: bool = False,
    ) -> None:
        """`beside`: small text files that go with the adapter; `sampled`: what is known of DPO's reference.

        `start`: another model than the recipe's to begin with, and its hash; a function builds it below `work`.
        `left_out`: rows that failed before; `funnel`: what is told before the rows; `merged`: a whole model is left
        beside an adapter, too; `counted`: its tokens are told, planned and measured.
        """
        settings: Train = context.recipe.block(stage) or Train()
        check_options(settings, stage, method)
        self._stage = stage
        self._method: Method = method
        self._rows = rows
        self._beside = dict(beside or {})
        self._settings = settings
        self._sampled = sampled if settings.reference == "cache" else None
        self._seed = context.recipe.seed
        self._model, self._model_sha256 = start or (context.model, context.model_sha256)
        self._left_out, self._before, self._merged = tuple(left_out), dict(funnel or {}), merged
        self._counted = counted

    @cached_property
    def units(self) -> Sequence[Unit]:
        s, dpo = self._settings, self._method == "dpo"
        key = sha256_of(
            {
                "stage": self._stage,
                "model": self._model_sha256,
                "rows": rows_sha256(self._rows),
                "lora": dataclasses.asdict(s.lora),
                "max_length": s.max_length,
                "trl": dict(s.trl),
                **({"sharing": s.sharing, "batch_by": s.batch_by, "reference": s.reference} if dpo else {}),
                **({"processes": ranks.size()} if ranks.size() > 1 else {}),  # they decide what a step learns from
                **_beside_defaults(s, "parts", "batches", "order", "group_by_length", "quantize", "features"),
                **({} if dpo else _beside_defaults(s, "sharing", "batch_by")),
                **({"sampled": file_sha256(self._sampled.path)} if self._sampled else {}),
                **({"snapshots": list(kept)} if (kept := getattr(s, "snapshots", ())) else {}),
                "seed": self._seed,
                "template": TEMPLATE_SHA256,
            }
        )
        return (Unit(key=key, payload=None, records=len(self._rows)),)

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        return Estimate()

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        for unit in pending:
            folder = workspace / unit.key[:16]
            model = self._model(workspace) if callable(self._model) else self._model
            training: dict[str, Any] = {
                "method": self._method,
                "stage": self._stage,
                "rows": self._rows,
                "model": model,
                "settings": self._settings,
                "seed": self._seed,
                "folder": folder,
                "reference_folder": workspace / "reference",
                "sampled": self._sampled,
            }
            with ranks.together(**training):
                made = train_lora(**training, progress=progress)
            if self._merged and made.adapter.name == "adapter":
                merge_adapter(model, made.adapter, folder / "model")
            line = {
                "log": made.log,
                "failures": [f.to_json() for f in made.failures],
                "notes": made.notes,
                "weights_sha256": weights_sha256(made.adapter),
            }
            if self._counted and made.measured is not None:
                failed = {failure.record_id for failure in made.failures}
                line["tokens"] = account(
                    model, self._settings, [r for r in self._rows if r.id not in failed], made.measured, made.log
                )
            done(unit.key, line)
            checkpoints.remove(folder)

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        (unit,) = self.units
        line = lines[unit.key]
        name = kind(self._settings)
        made = workspace / unit.key[:16] / name
        if weights_sha256(made) != line["weights_sha256"]:
            raise UserError(
                f"{made}: is not the {name} that was trained; remove the folder of stage {self._stage} and run it again"
            )
        failures = [*self._left_out, *(Failure.from_json(row) for row in line["failures"])]
        reasons = Counter(f.reason.value for f in failures)
        given = len(self._rows) + len(self._left_out)
        trained = given - len(failures)
        counts = {k: v for k, v in line.get("tokens", {}).items() if k != "seconds"}  # the same on every run
        notes = {**line.get("notes", {}), **(notes_of(counts) if counts else {})}
        return Compiled(
            files={
                name: made,
                "log.jsonl": "".join(dump_line(entry) for entry in line["log"]),
                "failures.jsonl": failures,
                "card.md": self._card(line["log"], trained, line["weights_sha256"], notes),
                **({"tokens.json": counts} if counts else {}),
                **self._beside,
                **({"model": made.with_name("model")} if self._merged else {}),
                **({"snapshots": made.with_name("snapshots")} if getattr(self._settings, "snapshots", ()) else {}),
            },
            units=given,
            outputs=trained,
            failures=len(failures),
            funnel={
                **self._before,
                "rows": given,
                **{f"failed: {reason}": count for reason, count in sorted(reasons.items())},
                "rows trained on": trained,
                "optimizer steps": len(line["log"]),
            },
        )

    def _card(
        self, log: Sequence[Mapping[str, Any]], trained: int, weights_sha256: str, notes: Mapping[str, str]
    ) -> str:
        return adapter_card(
            stage=self._stage,
            model_sha256=self._model_sha256,
            weights_sha256=weights_sha256,
            rows_sha256=rows_sha256(self._rows),
            n_rows=len(self._rows) + len(self._left_out),
            n_trained=trained,
            settings=self._settings,
            seed=self._seed,
            log=log,
            notes=notes,
        )
