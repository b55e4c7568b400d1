"""The stage `pairs`: from annotated prompts to the training sets of DPO, SteerLM and rejection sampling.

It takes seconds, so it is one unit of work; its key hashes the annotations, the options and the seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from align.context import Context
from align.pairs.account import Account
from align.pairs.also import Other, made_of, prompt_of, read_also
from align.pairs.build import conditioning_json
from align.pairs.card import dataset_card
from align.pairs.lengths import balanced
from align.pairs.score import check_settings
from align.pairs.sets import Maker
from align.settings import Annotate, Pairs
from annotate.errors import UserError
from annotate.records import Annotated, Failure, Record, Rubric, canonical_json, replace
from annotate.rubric import load_rubric
from annotate.stage import Compiled, Done, Estimate, Line, Progress, Unit


@dataclass(frozen=True, kw_only=True)
class PairsWork:
    """All training sets at once, in memory: they are as large as the annotations."""

    rows: Sequence[Annotated]
    prompts: Mapping[str, int]
    """Prompts per source, before sampling and annotation; those of other files too."""
    settings: Pairs
    rubric: Rubric
    seed: int
    needs_pairs: bool
    """Whether `dpo` follows: then no pair at all is an error, told before anything is written."""
    also: Sequence[Other] = ()
    """Preferences of other origin."""

    @cached_property
    def units(self) -> Sequence[Unit]:
        digest = hashlib.sha256()
        options = [dataclasses.asdict(self.settings), self.rubric.to_json(), self.seed, dict(self.prompts)]
        for value in (options, self.needs_pairs, *(row.to_json() for row in self.rows)):
            digest.update(canonical_json(value).encode("utf-8"))
        for other in self.also:
            for record in (other,) if isinstance(other, Annotated) else other:
                digest.update(record.to_line())
        return (Unit(key=digest.hexdigest(), payload=None, records=len(self.rows) + len(self.also)),)

    @cached_property
    def _built(self) -> tuple[dict[str, list[Record]], Account]:
        settings = balanced(self.rows, self.settings, seed=self.seed)
        maker = Maker(settings, seed=self.seed)
        files: dict[str, list[Record]] = {name: [] for name in (*maker.sets, "failures")}
        account = Account(settings, prompts=self.prompts)
        known = {row.prompt.id for row in self.rows}
        for made in chain(map(maker, self.rows), made_of(self.also, maker, known)):
            account.add(made)
            for name, rows in made.sets.items():
                if not isinstance(rows[0], Failure):
                    files[name] += rows
                elif name == "preference":  # the failures of other sets are in the funnel
                    files["failures"] += rows
        return files, account

    def execute(self, pending: Sequence[Unit], done: Done, workspace: Path, progress: Progress) -> None:
        for unit in pending:
            _, account = self._built
            if self.needs_pairs:
                account.require_pairs()
            done(unit.key, {"pairs": account.pairs})

    def compile(self, lines: Mapping[str, Line], workspace: Path) -> Compiled:
        files, account = self._built
        total = account.total()
        names = [Path(file).name for file in self.settings.also]  # a card holds no path
        return Compiled(
            files={
                **{f"{name}.jsonl": records for name, records in files.items()},
                "conditioning.json": conditioning_json(self.rubric, self.settings),
                "funnel.json": account.to_json(),
                "card.md": dataset_card(account.to_json(), replace(account.settings, also=tuple(names))),
            },
            units=total["annotated"],
            outputs=total["kept"],
            failures=len(files["failures"]),
            funnel={**total, "pairs": account.pairs},
        )

    def estimate(self, pending: Sequence[Unit]) -> Estimate:
        return Estimate()


def work(context: Context) -> PairsWork:
    """What there is to do for a recipe; reads the finished stage `annotate`."""
    recipe = context.recipe
    settings, annotate = recipe.pairs or Pairs(), recipe.annotate or Annotate()
    check_settings(settings)
    for name in ("steerlm", "rejection"):
        if context.has(name) and name not in settings.sets:
            raise UserError(f"pairs.sets: {list(settings.sets)} is without {name}, which the stage {name} trains on")
    asked = context.prompts()
    also = tuple(read_also(settings.also, asked.root))
    prompts = (*asked.prompts, *map(prompt_of, also))
    return PairsWork(
        rows=context.records("annotate", "annotated.jsonl", Annotated),
        prompts=dict(sorted(Counter(prompt.source for prompt in prompts).items())),
        also=also,
        settings=settings,
        rubric=load_rubric(annotate.rubric)[0],
        seed=recipe.seed,
        needs_pairs=context.has("dpo"),
    )
