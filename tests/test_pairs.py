"""Preference pairs: groups small enough to be worked out by hand."""

from collections import Counter

import pytest
from pair_groups import CLOSE, A, B, C, D, annotated, pairs, texts

from align.pairs import Pairs, build_preference_pairs, build_rejection_examples, build_steerlm_examples
from annotate.errors import UserError
from annotate.records import Example, Failure, PreferencePair, Reason


def test_best_against_one_of_those_worse_by_the_margin():
    # 11 - 9 = 2 is enough, 11 - 10 = 1 is not
    row = annotated("What is it?", [CLOSE, D, A, C])
    assert texts(pairs(row)) in ([(A[0], C[0], 2.0)], [(A[0], D[0], 7.0)])
    assert {p.rejected.text for seed in range(20) for p in pairs(row, seed)} == {C[0], D[0]}


def test_each_rejected_candidate_is_as_likely_as_the_next():
    # 400 prompts, two candidates each: 200 expected, standard deviation 10
    rows = [annotated(f"Question {i}?", [A, C, D, CLOSE]) for i in range(400)]
    drawn = Counter(p.rejected.text for p in build_preference_pairs(rows, Pairs(), seed=0))
    assert 160 < drawn[C[0]] < 240 and drawn[C[0]] + drawn[D[0]] == 400


def test_worst_takes_the_lowest():
    assert texts(pairs(annotated("?", [C, D, A, CLOSE]), rejected="worst")) == [(A[0], D[0], 7.0)]


def test_all_below_margin_pairs_the_best_with_each_by_index():
    row = annotated("?", [D, CLOSE, A, C])
    made = pairs(row, rejected="all_below_margin")
    assert texts(made) == [(A[0], D[0], 7.0), (A[0], C[0], 2.0)]
    assert len({p.id for p in made}) == 2


def test_all_below_margin_takes_one_text_once():
    row = annotated("?", [A, D, C, D])
    assert texts(pairs(row, rejected="all_below_margin")) == [(A[0], D[0], 7.0), (A[0], C[0], 2.0)]


def test_two_best_are_drawn_or_skipped():
    row = annotated("?", [A, B, D])
    assert {p.chosen.text for seed in range(20) for p in pairs(row, seed)} == {A[0], B[0]}
    (failure,) = pairs(row, ties="skip")
    assert failure == Failure(
        stage="pairs", record_id=row.prompt.id, reason=Reason.TIED, detail="2 completions score 11"
    )


def test_the_same_best_answer_given_twice_is_no_tie():
    assert [m[:2] for m in texts(pairs(annotated("?", [A, D, A]), ties="skip"))] == [(A[0], D[0])]


def test_the_score_sums_the_attributes_that_are_named():
    # complexity + verbosity: D and CLOSE 8, A 2, C 1
    row = annotated("?", [A, C, D])
    assert texts(pairs(row, score=("complexity", "verbosity"), rejected="worst")) == [(D[0], C[0], 7.0)]


def test_several_passes_are_averaged_exactly():
    # helpfulness of the second: 1, 2, 2 -> 5/3; so margins of 4 - 5/3 = 2.333...; correctness, coherence alike
    row = annotated(
        "?",
        [("yes", (4, 0, 0, 0, 0)), ("no", (1, 0, 0, 0, 0))],
        more_passes=[[(4, 0, 0, 0, 0), (2, 0, 0, 0, 0)], [(4, 0, 0, 0, 0), (2, 0, 0, 0, 0)]],
    )
    (pair,) = pairs(row)
    assert pair.margin == 2.333333
    assert pair.evidence == tuple(f"{row.prompt.id}-{i}" for i in range(3))


def test_thirds_that_sum_to_the_margin_reach_it():
    # means 10/3 + 10/3 + 10/3 = 10 against 8/3 + 8/3 + 8/3 = 8: in floating point 9.999...-8 could fall short of 2
    high, low = (4, 4, 4, 0, 0), (3, 3, 3, 0, 0)
    row = annotated(
        "?",
        [("yes", high), ("no", low)],
        more_passes=[[low, low], [low, (2, 2, 2, 0, 0)]],
    )
    assert texts(pairs(row)) == [("yes", "no", 2.0)]


@pytest.mark.parametrize(
    ("answers", "reason", "detail"),
    [
        ([A, CLOSE], Reason.NO_MARGIN, "scores differ by 1 at most, wanted 2"),
        ([A, B], Reason.NO_MARGIN, "scores differ by 0 at most, wanted 2"),
        ([A, A, A], Reason.IDENTICAL, "the completions that could be paired say the same"),
        # one text, once scored 11 and once 4: nothing else was said
        ([A, (" " + A[0] + "\n", D[1])], Reason.IDENTICAL, "the completions that could be paired say the same"),
        ([A, ("", D[1])], Reason.COMPLETION_EMPTY, "1 of 2 completions are empty"),
        ([A, (" \n", D[1]), ("", D[1])], Reason.COMPLETION_EMPTY, "2 of 3 completions are empty"),
        (
            [A, ("See <image>.", D[1])],
            Reason.INVALID_INPUT,
            "1 of 2 completions contain <image>, which would be read as an image",
        ),
        ([A, ("A cat.", None), ("A dog.", None)], Reason.UNRATED, "1 of 3 completions are rated"),
        ([A], Reason.COMPLETIONS_MISSING, "1 completion(s)"),
    ],
)
def test_why_a_prompt_has_no_pair(answers, reason, detail):
    row = annotated("?", answers)
    assert pairs(row) == [Failure(stage="pairs", record_id=row.prompt.id, reason=reason, detail=detail)]


def test_an_unrated_or_empty_completion_does_not_spoil_the_others():
    row = annotated("?", [("", D[1]), A, ("Not rated.", None), D])
    assert texts(pairs(row)) == [(A[0], D[0], 7.0)]


def test_a_tie_is_resolved_towards_the_one_that_has_an_opponent():
    # both best; the only worse one says what B says, so A must be the chosen
    row = annotated("?", [A, B, (B[0], D[1])])
    assert {p.chosen.text for seed in range(20) for p in pairs(row, seed)} == {A[0]}


def test_a_margin_of_zero_still_wants_a_better_and_a_worse():
    assert [f.reason for f in pairs(annotated("?", [A, B]), min_margin=0)] == [Reason.NO_MARGIN]
    assert texts(pairs(annotated("?", [A, CLOSE]), min_margin=0)) == [(A[0], CLOSE[0], 1.0)]


def test_fractions_are_nested_and_of_about_the_right_size():
    rows = [annotated(f"Question {i}?", [A, D]) for i in range(400)]

    def kept(fraction: float) -> set[str]:
        made = build_preference_pairs(rows, Pairs(fraction=fraction), seed=3)
        return {p.prompt.id for p in made if isinstance(p, PreferencePair)}

    quarter, half, whole = kept(0.25), kept(0.5), kept(1.0)
    assert quarter < half < whole and len(whole) == 400
    assert 70 < len(quarter) < 130 and 160 < len(half) < 240  # 100 and 200, standard deviations 9 and 10
    for build in (build_steerlm_examples, build_rejection_examples):
        made = [e for e in build(rows, Pairs(fraction=0.25), seed=3) if isinstance(e, Example)]
        assert {e.meta.get("prompt_id", e.prompt.id) for e in made} == quarter


def test_flipped_pairs_swap_sides_and_say_so():
    rows = [annotated(f"Question {i}?", [A, D]) for i in range(400)]
    straight = list(build_preference_pairs(rows, Pairs(), seed=0))
    noisy = list(build_preference_pairs(rows, Pairs(flip=0.25), seed=0))
    flipped = [(s, n) for s, n in zip(straight, noisy, strict=True) if s != n]
    assert 70 < len(flipped) < 130
    for s, n in flipped:
        assert (n.chosen, n.rejected, n.margin, n.rule) == (s.rejected, s.chosen, -7.0, s.rule + ", flipped")
        assert n.id != s.id
    assert all(p.margin == -7.0 for p in build_preference_pairs(rows, Pairs(flip=1.0), seed=0))


def test_the_rule_is_written_into_every_pair():
    (pair,) = pairs(annotated("?", [A, D]), min_margin=2.5, rejected="worst")
    assert pair.rule == (
        "score=helpfulness+correctness+coherence, chosen=best, ties=random, rejected=worst, min_margin=2.5"
    )


def test_an_attribute_that_was_not_rated_is_the_users_mistake():
    with pytest.raises(UserError, match=r"pairs.score: prompt \w+ is not rated for 'corectness' .* mean 'correctness'"):
        pairs(annotated("?", [A, D]), score=("corectness",))


def test_impossible_options_are_told_all_at_once():
    bad = Pairs(score=(), min_margin=-1, fraction=0, flip=2, steerlm_template="Be good.")
    with pytest.raises(UserError) as caught:
        list(build_preference_pairs([], bad, seed=0))
    assert [f.split(":")[0] for f in caught.value.faults] == [
        "pairs.score",
        "pairs.min_margin",
        "pairs.fraction",
        "pairs.flip",
        "pairs.steerlm_template",
    ]
