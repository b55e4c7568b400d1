"""What must hold for any group and any options."""

import json
from itertools import groupby
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from pair_groups import annotated, work

from align.pairs import (
    Pairs,
    build_hindsight_examples,
    build_preference_pairs,
    build_rejection_examples,
    build_steerlm_examples,
)
from align.pairs.lengths import Gaps, balanced, gap
from align.pairs.sets import Maker
from annotate.records import Example, Failure, PreferencePair, replace

BUILDERS = (build_preference_pairs, build_steerlm_examples, build_rejection_examples, build_hindsight_examples)
score = st.integers(0, 4)
answer = st.tuples(
    st.sampled_from(["", " ", "a", "b", "b ", "c is", "d is longer", "e is the longest of them"]),
    st.none() | st.tuples(*[score] * 5),
)
groups = st.lists(st.lists(answer, min_size=1, max_size=5), min_size=1, max_size=6).map(
    lambda drawn: [annotated(f"Question {i}?", g, source=f"s{i % 2}") for i, g in enumerate(drawn)]
)
options = st.builds(
    Pairs,
    score=st.sampled_from(["paper", "helpfulness_correctness", {"helpfulness": 0.65, "correctness": 0.8}]),
    ties=st.sampled_from(["random", "skip"]),
    rejected=st.sampled_from(["random_below_margin", "worst", "all_below_margin", "all_pairs"]),
    min_margin=st.sampled_from([0.0, 1.0, 2.0, 5.0]),
    max_pairs=st.sampled_from([None, 1, 2]),
    max_length_ratio=st.sampled_from([None, 1.0, 3.0]),
    length_gap=st.sampled_from([None, (None, 5), (-10, 10)]),
    fraction=st.sampled_from([0.5, 1.0]),
    steerlm=st.sampled_from(["all", "best"]),
    rejection_ties=st.sampled_from(["random", "skip", "all"]),
)


def total(scores: dict[str, float], how: Pairs) -> float:
    weights = how.score if isinstance(how.score, dict) else dict.fromkeys(how.score, 1)
    return sum(weight * scores[name] for name, weight in weights.items())


@given(groups, options, st.integers(0, 5))
@settings(deadline=None)
def test_every_pair_respects_the_options_and_can_be_traced(rows, how, seed):
    by_id = {row.prompt.id: row for row in rows}
    for made in build_preference_pairs(rows, how, seed=seed):
        if isinstance(made, Failure):
            continue
        row = by_id[made.prompt.id]
        scores = row.scores()
        chosen, rejected = total(scores[made.chosen.id], how), total(scores[made.rejected.id], how)
        assert abs(chosen - rejected - made.margin) < 1e-6
        assert made.margin >= how.min_margin and made.margin > 0
        if how.rejected != "all_pairs":
            rated = [total(scores[c.id], how) for c in row.completions if c.id in scores and c.text.strip()]
            assert chosen == max(rated)
        assert made.chosen in row.completions and made.rejected in row.completions
        assert made.evidence == tuple(a.id for a in row.annotations)
        assert made.meta == {"scores": {"chosen": scores[made.chosen.id], "rejected": scores[made.rejected.id]}}
        one, other = made.chosen.text.strip(), made.rejected.text.strip()
        assert one and other and one != other
        if how.max_length_ratio:
            assert max(len(one), len(other)) <= how.max_length_ratio * min(len(one), len(other))
        if how.length_gap:
            low, high = how.length_gap
            assert (low is None or low <= len(one) - len(other)) and len(one) - len(other) <= high


@given(groups, options)
@settings(deadline=None)
def test_a_prompt_gives_at_most_max_pairs_and_a_larger_limit_only_adds(rows, how):
    def made(limit: int | None) -> dict[str, set[str]]:
        found = {}
        for row in rows:
            pairs = build_preference_pairs([row], replace(how, max_pairs=limit), seed=0)
            found[row.prompt.id] = {p.id for p in pairs if isinstance(p, PreferencePair)}
        return found

    one, two, all_of_them = made(1), made(2), made(None)
    for prompt in one:
        assert one[prompt] <= two[prompt] <= all_of_them[prompt]
        assert len(one[prompt]) <= 1 and len(two[prompt]) <= 2
        if how.length_gap is None:
            assert len(two[prompt]) == min(2, len(all_of_them[prompt]))


@given(groups, options, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_no_order_of_the_input_matters(rows, how, random):
    def shuffled(row):
        return replace(
            row,
            completions=tuple(random.sample(row.completions, len(row.completions))),
            annotations=tuple(random.sample(row.annotations, len(row.annotations))),
        )

    again = [shuffled(row) for row in random.sample(rows, len(rows))]
    for build in BUILDERS:
        one, other = (sorted(json.dumps(m.to_json()) for m in build(r, how, seed=1)) for r in (rows, again))
        assert one == other


@given(groups, options)
@settings(deadline=None)
def test_a_maker_makes_what_the_builders_make(rows, how):
    how = replace(how, sets=("preference", "steerlm", "rejection", "hindsight"))
    maker = Maker(how, seed=4)
    for row in rows:
        made = maker(row)
        assert list(made.sets.values()) == [list(build([row], how, seed=4)) for build in BUILDERS]
        for records in made.sets.values():
            kinds = [type(record) for record in records]
            assert kinds == [Failure] or (kinds and Failure not in kinds)


@given(groups, options)
@settings(deadline=None)
def test_pairs_by_the_rule_are_those_made_and_those_that_an_option_left_out(rows, how):
    maker, rule = Maker(how, seed=0), replace(how, max_pairs=None, length_gap=None)
    for row in rows:
        by_rule = sum(isinstance(p, PreferencePair) for p in build_preference_pairs([row], rule, seed=0))
        made = maker(row)
        pairs = sum(isinstance(p, PreferencePair) for p in made.sets["preference"])
        assert by_rule == pairs + sum(made.left_out.values())
        assert all(n >= 0 for n in made.left_out.values())


@given(groups, options)
@settings(deadline=None)
def test_each_prompt_gives_adjacent_pairs_or_one_failure_and_the_funnel_adds_up(rows, how):
    made = list(build_preference_pairs(rows, how, seed=0))
    owners = [m.record_id if isinstance(m, Failure) else m.prompt.id for m in made]
    assert [prompt_id for prompt_id, _ in groupby(owners)] == [row.prompt.id for row in rows]

    compiled = work(rows, how).compile({}, Path())
    funnel, failures = compiled.files["funnel.json"], list(compiled.files["failures.jsonl"])
    assert compiled.units == compiled.outputs + compiled.failures == len(rows)
    total = funnel["total"]
    assert total["prompts"] >= total["annotated"] >= total["rated"] >= total["margin"] >= total["kept"]
    assert total["annotated"] - total["kept"] == sum(funnel["failures"].values()) == len(failures)
    for step, count in total.items():
        assert count == sum(source[step] for source in funnel["sources"].values())
    for name, counted in funnel["sets"].items():
        assert counted["rows"] == len(compiled.files[f"{name}.jsonl"])
        assert counted["prompts"] + sum(counted["failures"].values()) == len(rows)


@given(groups, options, st.integers(0, 3))
@settings(deadline=None)
def test_a_smaller_fraction_is_a_subset_of_every_set(rows, how, seed):
    for build in BUILDERS:
        quarter, half = (
            {m.id for m in build(rows, replace(how, fraction=f), seed=seed) if isinstance(m, PreferencePair | Example)}
            for f in (0.25, 0.5)
        )
        assert quarter <= half


@given(st.lists(st.integers(-30, 30), max_size=40), st.integers(0, 40))
@settings(deadline=None)
def test_the_gap_search_takes_the_best_of_all_ends(gaps, cut):
    found = Gaps(gaps)
    if gaps and (min(gaps) > 0 or max(gaps) < 0):
        return  # out of reach; see test_pairs_lengths.py
    low, high = found.bounds()
    mean = abs(sum(gaps)) / max(1, len(gaps))
    for end in {*gaps}:  # by hand: every end of the heavy side
        kept = [g for g in gaps if (g <= end if sum(gaps) > 0 else g >= end)]
        mean = min(mean, abs(sum(kept)) / len(kept))
    if gaps:
        assert abs(abs(found.mean((low, high))) - mean) < 1e-9
    assert (Gaps(gaps[:cut]) + Gaps(gaps[cut:])).bounds() == found.bounds()  # parts add up


@given(groups, options)
@settings(deadline=None)
def test_balanced_pairs_are_those_of_the_set_within_the_bounds(rows, how):
    loose = replace(how, length_gap=None)
    before = [p for p in build_preference_pairs(rows, loose, seed=0) if isinstance(p, PreferencePair)]
    if before and (all(gap(p) > 0 for p in before) or all(gap(p) < 0 for p in before)):
        return
    bounded = balanced(rows, replace(how, length_gap="balance"), seed=0)
    after = [p for p in build_preference_pairs(rows, bounded, seed=0) if isinstance(p, PreferencePair)]
    low, high = bounded.length_gap
    expected = [p.id for p in before if (low is None or low <= gap(p)) and (high is None or gap(p) <= high)]
    assert [p.id for p in after] == expected
    assert abs(sum(map(gap, after))) * max(1, len(before)) <= abs(sum(map(gap, before))) * max(1, len(after))
