"""The whole report, from records as they stream by; what no section needs is not kept.

    collected = Collected(opinions_in(human_rows), other=other_rows)
    for row in rows:
        collected.add(row)
    agreement(collected, score=None, seed=0)    ->    {"schema": "agreement/1", "human": {…}, "itself": {…}, …}

Whose annotations count is settled here, for all sections: the annotator's; those of people (`backend` "human") only
where a file has no others, such as one of HelpSteer, whose annotator is people.

It depends on nothing but the records and the seed: the same records in another order make the same report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from align.agreement.human import human_section
from align.agreement.joining import Lookup, Opinion
from align.agreement.others import itself_section, other_section, passes_of, twin_of
from align.calibration.readings import DESCRIPTIONS, MERITS, preference_of
from align.doctor.collect import HUMAN
from annotate.errors import UserError
from annotate.records import Annotated, Annotation, Completion, replace

SCHEMA = "agreement/1"


class Collected:
    """The annotated prompts that some section needs, and how many there were."""

    def __init__(self, opinions: Sequence[Opinion] | None = None, other: Iterable[Annotated] | None = None) -> None:
        self.opinions = opinions
        self.asked: Lookup[None] = Lookup()
        for opinion in opinions or ():
            self.asked.add(opinion.prompt, None)
        self.other: dict[str, Annotated] | None = None
        self.others: Lookup[Annotated] = Lookup()
        if other is not None:
            self.other = _by_prompt(other)
            machine = any(by_machine(row) for row in self.other.values())
            self.other = {id: spoken(row, machine) for id, row in self.other.items()}
            for row in self.other.values():
                self.others.add(row.prompt, row)
        self.rows: dict[str, Annotated] = {}
        self.prompts: set[str] = set()
        self.annotators: dict[tuple[str, str], int] = {}
        """By backend and model, people among them."""
        self.attributes: dict[str, set[str]] = {}
        """Backend -> what it scores."""

    def add(self, row: Annotated) -> None:
        id = row.prompt.id
        self.prompts.add(id)
        for annotation in row.annotations:
            name = (annotation.backend, annotation.model)
            self.annotators[name] = self.annotators.get(name, 0) + 1
            self.attributes.setdefault(annotation.backend, set()).update(_attributes((annotation,)))
        if id in self.rows:
            self.rows[id] = merged(self.rows[id], row)
        elif passes_of(row) > 1 or self.asked.find(row.prompt) or self.others.find(row.prompt):
            self.rows[id] = row


def agreement(collected: Collected, *, score: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """The report as JSON. Raises `UserError` where nothing is annotated, or `score` names what nobody rated."""
    if not collected.annotators:
        raise UserError(f"nothing is annotated: none of its {len(collected.prompts):,} prompts has an annotation")
    machine = any(backend != HUMAN for backend, _ in collected.annotators)
    annotators = {name: n for name, n in collected.annotators.items() if name[0] != HUMAN or not machine}
    attributes = _ordered({n for backend, _ in annotators for n in collected.attributes[backend]})
    summed = _summed(score, attributes)
    rows = [spoken(collected.rows[id], machine) for id in sorted(collected.rows)]
    lookup: Lookup[Annotated] = Lookup()
    for row in rows:
        lookup.add(row.prompt, row)
    names = sorted(annotators, key=lambda name: (-annotators[name], name))
    return {
        "schema": SCHEMA,
        "seed": seed,
        "prompts": len(collected.prompts),
        "annotators": [{"backend": b, "model": m, "annotations": annotators[b, m]} for b, m in names],
        "score": list(summed),
        "human": human_section(collected.opinions, lookup, attributes, summed, seed=seed),
        "itself": itself_section([row for row in rows if passes_of(row) > 1], summed, seed=seed),
        "other": _other(collected, rows, attributes, summed, score, seed),
    }


def _other(
    collected: Collected, rows: Sequence[Annotated], attributes: Sequence[str], summed: Sequence[str],
    score: Sequence[str] | None, seed: int,
) -> dict[str, Any]:  # fmt: skip
    if collected.other is None:
        return other_section(None, attributes, summed, (), prompts=0, their_prompts=0, seed=seed)
    theirs = _ordered({name for row in collected.other.values() for name in _attributes(row.annotations)})
    twins = []
    given: set[str] = set()
    for row in rows:
        twin = twin_of(row, [found for found in collected.others.find(row.prompt) if found.prompt.id not in given])
        if twin is not None:
            given.add(twin.theirs.prompt.id)
            twins.append(twin)
    shared = [name for name in attributes if name in theirs]
    their_summed = summed if score and set(summed) <= set(theirs) else preference_of(theirs)
    return other_section(
        twins, shared, summed, their_summed, prompts=len(collected.prompts), their_prompts=len(collected.other),
        seed=seed,
    )  # fmt: skip


def merged(a: Annotated, b: Annotated) -> Annotated:
    """Two rows of one prompt as one, in an order of its own."""
    completions: Mapping[str, Completion] = {c.id: c for c in (*a.completions, *b.completions)}
    annotations: Mapping[str, Annotation] = {x.id: x for x in (*a.annotations, *b.annotations)}
    return replace(
        a,
        completions=tuple(sorted(completions.values(), key=lambda c: (c.index, c.id))),
        annotations=tuple(sorted(annotations.values(), key=lambda x: (x.pass_index, x.id))),
    )


def _by_prompt(rows: Iterable[Annotated]) -> dict[str, Annotated]:
    made: dict[str, Annotated] = {}
    for row in rows:
        known = made.get(row.prompt.id)
        made[row.prompt.id] = row if known is None else merged(known, row)
    return made


def by_machine(row: Annotated) -> bool:
    """Whether something else than people annotated it."""
    return any(a.backend != HUMAN for a in row.annotations)


def spoken(row: Annotated, machine: bool) -> Annotated:
    """A row with the annotations that count: all, or those of a machine alone."""
    kept = tuple(a for a in row.annotations if a.backend != HUMAN or not machine)
    return row if len(kept) == len(row.annotations) else replace(row, annotations=kept)


def _attributes(annotations: Iterable[Annotation]) -> set[str]:
    return {name for a in annotations for r in a.ratings for name in r.scores}


def _ordered(names: set[str]) -> tuple[str, ...]:
    first = [name for name in (*MERITS, *DESCRIPTIONS) if name in names]
    return (*first, *sorted(names - set(first)))


def _summed(score: Sequence[str] | None, attributes: Sequence[str]) -> tuple[str, ...]:
    """The attributes whose sum tells the better completion."""
    if score is None:
        return preference_of(attributes)
    for name in score:
        if name not in attributes:
            near = get_close_matches(name, attributes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(attributes) or "nothing"
            raise UserError(f"--score: completions are not rated for {name!r} but for {known}{hint}")
    return tuple(score)
