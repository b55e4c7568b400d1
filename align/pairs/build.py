"""All training sets from one annotation file, and the account of where every prompt went.

    align pairs runs/demo/annotate/annotated.jsonl out/

    out/preference.jsonl  steerlm.jsonl  rejection.jsonl  failures.jsonl  conditioning.json  funnel.json  card.md

funnel.json counts prompts, in all and per source; the difference between two neighbours is explained by `failures`:

    {"total": {"annotated": 4, "rated": 4, "margin": 3, "kept": 3}, "sources": {"charts": {...}},
     "failures": {"no_margin": 1}, "widest_difference": {"0": 1, "5": 3},
     "sets": {"preference": {"rows": 3, "prompts": 3, "failures": {"no_margin": 1}}, "steerlm": {...}, ...}}

`rated`: two completions or more can be compared. `margin`: two that say different things differ by the margin. `kept`:
not left out by `ties: skip` or `fraction`. `widest_difference`: whole points between best and worst -> prompts.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.pairs.card import dataset_card
from align.pairs.preference import build_preference_pairs, widest_difference
from align.pairs.rejection import build_rejection_examples
from align.pairs.score import check_settings, usable
from align.pairs.steerlm import build_steerlm_examples, conditioning
from align.settings import Pairs
from annotate.errors import UserError
from annotate.jsonl import dump_line, read_records
from annotate.records import Annotated, Failure, Reason, Record, Rubric
from annotate.rubric import load_rubric, shipped

SETS = ("preference", "steerlm", "rejection")
FILES = (*(f"{name}.jsonl" for name in SETS), "failures.jsonl", "conditioning.json", "funnel.json", "card.md")
_LOST_BEFORE = {
    Reason.COMPLETIONS_MISSING: "rated",
    Reason.UNRATED: "rated",
    Reason.COMPLETION_EMPTY: "rated",
    Reason.NO_MARGIN: "margin",
    Reason.IDENTICAL: "margin",
    Reason.TIED: "kept",
    Reason.FILTERED: "kept",
}
_STEPS = ("annotated", "rated", "margin", "kept")


@dataclass
class Account:
    """Where every prompt went; fed one prompt at a time."""

    settings: Pairs
    prompts: Mapping[str, int] | None = None
    """Prompts per source before annotation, where known."""
    steps: dict[str, Counter[str]] = field(default_factory=dict)
    widest: Counter[int] = field(default_factory=Counter)
    sets: dict[str, dict[str, Counter[str]]] = field(
        default_factory=lambda: {name: {"count": Counter(), "failures": Counter()} for name in SETS}
    )

    def add(self, row: Annotated, made: Mapping[str, list[Record]]) -> None:
        """Count what `sets_of(row)` made."""
        lost = next((f.reason for f in made["preference"] if isinstance(f, Failure)), None)
        reached = _STEPS if lost is None else _STEPS[: _STEPS.index(_LOST_BEFORE[lost])]
        self.steps.setdefault(row.prompt.source, Counter()).update(reached)
        rated = usable(row, self.settings.score, at_least=2)
        if not isinstance(rated, Failure):
            self.widest[math.floor(widest_difference(rated))] += 1
        for name in SETS:
            failed = [record.reason.value for record in made[name] if isinstance(record, Failure)]
            self.sets[name]["failures"].update(failed)
            if not failed:
                self.sets[name]["count"].update(rows=len(made[name]), prompts=1)

    @property
    def failures(self) -> Counter[str]:
        """Reason -> prompts without a pair."""
        return self.sets["preference"]["failures"]

    @property
    def pairs(self) -> int:
        return self.sets["preference"]["count"]["rows"]

    def total(self) -> dict[str, int]:
        """The funnel over all sources."""
        return self._counts(*self.steps, *(self.prompts or ()))

    def to_json(self) -> dict[str, Any]:
        return {
            "total": self.total(),
            "sources": {source: self._counts(source) for source in sorted({*self.steps, *(self.prompts or ())})},
            "failures": dict(sorted(self.failures.items())),
            "widest_difference": {str(points): n for points, n in sorted(self.widest.items())},
            "sets": {
                name: {
                    "rows": counted["count"]["rows"],
                    "prompts": counted["count"]["prompts"],
                    "failures": dict(sorted(counted["failures"].items())),
                }
                for name, counted in self.sets.items()
            },
        }

    def _counts(self, *sources: str) -> dict[str, int]:
        wanted = set(sources)
        known = {} if self.prompts is None else {"prompts": sum(self.prompts.get(source, 0) for source in wanted)}
        steps = {step: sum(self.steps[s][step] for s in wanted if s in self.steps) for step in _STEPS}
        return {**known, **steps}

    def require_pairs(self) -> None:
        """Raise `UserError` if no prompt gave a pair: there would be nothing to train on."""
        if self.pairs:
            return
        annotated = self.total()["annotated"]
        if not annotated:
            raise UserError("no pair: not one prompt was annotated; see the failures of `annotate`")
        if self.failures[Reason.UNRATED.value] == annotated:
            raise UserError(
                "no pair: the annotations hold no scores to choose by; pairwise ones only compare. "
                "Annotate with mode listwise or pointwise"
            )
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(self.failures.items()))
        spread = ", ".join(f"{points}: {n}" for points, n in sorted(self.widest.items())) or "none could be compared"
        raise UserError(
            f"no pair above the margin: pairs.min_margin is {self.settings.min_margin:g}, and none of {annotated} "
            f"annotated prompt(s) gave a pair ({why}). Points between the best and the worst completion of a prompt: "
            f"{spread} (points: prompts). Lower pairs.min_margin, or sample completions that differ more"
        )


def sets_of(row: Annotated, settings: Pairs, *, seed: int) -> dict[str, list[Record]]:
    """What one prompt gives to each training set: records, or one Failure saying why there is none."""
    return {
        "preference": list(build_preference_pairs([row], settings, seed=seed)),
        "steerlm": list(build_steerlm_examples([row], settings, seed=seed)),
        "rejection": list(build_rejection_examples([row], settings, seed=seed)),
    }


def conditioning_json(rubric: Rubric, settings: Pairs) -> dict[str, Any]:
    """What is appended to prompts when the SteerLM model answers: the highest value of every attribute."""
    highest = {name: scale.high for name, scale in rubric.attributes.items()}
    return {"text": conditioning(highest, settings), "attributes": highest, "rubric": rubric.name}


def build_files(
    annotated: Path, outdir: Path, settings: Pairs, seed: int, *, rubric: str | None = None
) -> dict[str, Any]:
    """From a bare annotation file to the files above; returns the funnel. All of them are written, or none.

    conditioning.json needs to know the highest scores: from `rubric` (name or path), or from the shipped rubric that
    the annotations say they followed; else it is left out.
    """
    check_settings(settings)
    given = load_rubric(rubric)[0] if rubric else None
    if outdir.exists() and not outdir.is_dir():
        raise UserError(f"{outdir}: is a file; give a folder to write to")
    workspace = None
    try:
        near = next(folder for folder in outdir.absolute().parents if folder.exists())
        workspace = Path(tempfile.mkdtemp(prefix=f".{outdir.name}.", dir=near))
        funnel = _write_all(annotated, workspace, settings, seed, given)
        outdir.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (workspace / name).exists():
                (workspace / name).replace(outdir / name)
            else:
                (outdir / name).unlink(missing_ok=True)  # of an earlier run
        return funnel
    except OSError as error:
        raise UserError(f"{outdir}: cannot be written ({error.strerror})") from None
    finally:
        if workspace is not None:
            shutil.rmtree(workspace, ignore_errors=True)


def _write_all(annotated: Path, workspace: Path, settings: Pairs, seed: int, rubric: Rubric | None) -> dict[str, Any]:
    account = Account(settings)
    seen: set[str] = set()
    rubrics: set[tuple[str, str]] = set()
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((workspace / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n"))
            for name in (*SETS, "failures")
        }
        for number, row in enumerate(read_records(annotated, Annotated), start=1):
            if row.prompt.id in seen:
                raise UserError(f"{annotated}:{number}: prompt {row.prompt.id} is there twice; merge its annotations")
            seen.add(row.prompt.id)
            rubrics.update((a.rubric, a.rubric_sha256) for a in row.annotations)
            made = sets_of(row, settings, seed=seed)
            account.add(row, made)
            for name, record in sorted_out(made):
                files[name].write(dump_line(record))
    if len(rubrics) > 1:
        names = ", ".join(f"{name} ({sha256[:8]})" for name, sha256 in sorted(rubrics))
        raise UserError(f"{annotated}: annotated by {len(rubrics)} rubrics ({names}), whose scores are not comparable")
    account.require_pairs()
    funnel = account.to_json()
    _write_json(workspace / "funnel.json", funnel)
    (workspace / "card.md").write_text(dataset_card(funnel, settings), encoding="utf-8")
    used = rubric or _shipped_rubric(rubrics)
    if used is not None:
        _write_json(workspace / "conditioning.json", conditioning_json(used, settings))
    return funnel


def sorted_out(made: Mapping[str, list[Record]]) -> Iterable[tuple[str, Record]]:
    """(file, record): failures.jsonl accounts for the pairs; those of the other sets are in the funnel."""
    for name, records in made.items():
        for record in records:
            if not isinstance(record, Failure):
                yield name, record
            elif name == "preference":
                yield "failures", record


def _shipped_rubric(used: set[tuple[str, str]]) -> Rubric | None:
    for name, sha256 in used:
        if name in shipped():
            rubric, _ = load_rubric(name)
            return rubric if rubric.sha256 == sha256 else None
    return None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
