"""The doctor's report: what is known of a data set, as JSON.

    collector = Collector()
    for record in records: collector.add(record)
    report = examine(collector.tables())

A pure function: no paths, no times, sorted lists; the same records in another order make the same bytes. Each figure is
as `align/calibration/figure.py` says, with an interval by bootstrap over prompts where it is an estimate. What cannot
be known from the records has a reason (`why`) in its place, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align.calibration.figure import left_out
from align.doctor.annotator import attributes_section, position_section
from align.doctor.lengths import drift_section, length_section
from align.doctor.margins import margins_section, saturation_section, ties_section
from align.doctor.polarity import polarity_section
from align.doctor.sampling import Clusters
from align.doctor.scored import scored
from align.doctor.size import duplicates_section, identical_section, size_section
from align.doctor.thresholds import By, check_limits
from align.doctor.vocabulary import vocabulary_section

if TYPE_CHECKING:
    from align.doctor.collect import Tables

SCHEMA = "doctor/1"
NO_SETS = "no evaluation set is named (--against NAME=FILE)"


def examine(
    tables: Tables,
    *,
    score: Sequence[str] | Mapping[str, float] | None = None,
    leakage: Sequence[Mapping[str, Any]] = (),
    bad_rows: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    by: By = "estimate",
    funnel: Mapping[str, int] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The report.

    `score`: attributes of the preference score, with weights or without (default: as the calibration card sums them).
    `leakage`: results of `align.overlap.Overlap`. `funnel`: where the prompts of a run went.
    """
    clusters = Clusters(tables.prompts, seed=seed)
    answers = scored(tables, score)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "seed": seed,
        "score": dict(answers.weights),
        "bad_rows": {"count": len(bad_rows), "first": list(bad_rows[:20])},
        "funnel": [{"step": step, "count": count} for step, count in (funnel or {}).items()],
        "size": size_section(tables, answers),
        "margins": margins_section(tables, answers, clusters),
        "ties": ties_section(tables, answers, clusters),
        "duplicates": duplicates_section(tables, answers, clusters),
        "identical": identical_section(tables, clusters),
        "length": length_section(tables, answers, clusters),
        "drift": drift_section(tables, answers, clusters),
        "position": position_section(tables, answers, clusters),
        "saturation": saturation_section(answers, clusters),
        "attributes": attributes_section(answers, clusters),
        "polarity": polarity_section(tables, answers, clusters),
        "vocabulary": vocabulary_section(tables),
        "leakage": {"sets": sorted(leakage, key=lambda s: s["name"])} if leakage else left_out(NO_SETS),
    }
    return {**report, "limits": check_limits(report, limits or {}, by)}
