"""Scores, rules and limits that are not the paper's defaults: groups with the answers worked out by hand."""

import pytest
from pair_groups import CLOSE, NAMES, A, B, C, D, annotated, pairs, texts

from align.pairs import Pairs, build_preference_pairs
from align.pairs.sets import Maker
from align.recipe_reader import Faults, read_block
from align.yaml_lines import parse_value
from annotate.errors import UserError
from annotate.records import Annotated, Failure, Image, PreferencePair, Prompt, Rating, Reason, Turn, replace

# helpfulness, correctness, coherence of A: 4 4 3, B: 4 3 4, C: 3 3 3, D: 1 0 3, CLOSE: 4 3 3


def failures(row: Annotated, **options: object) -> list[tuple[Reason, str]]:
    return [(made.reason, made.detail) for made in pairs(row, **options) if isinstance(made, Failure)]


# ----------------------------------------------------------------------------------------------------------- score


def test_weights_decide_what_is_best():
    # 0.65 h + 0.8 c + 0.45 coh:  A 2.6+3.2+1.35 = 7.15   B 2.6+2.4+1.8 = 6.8   D 0.65+0+1.35 = 2.0
    weights = {"helpfulness": 0.65, "correctness": 0.8, "coherence": 0.45}
    row = annotated("?", [B, A, D])
    (pair,) = pairs(row, score=weights)
    assert (pair.chosen.text, pair.rejected.text, pair.margin) == (A[0], D[0], 5.15)
    assert pair.rule.startswith("score=0.65*helpfulness+0.8*correctness+0.45*coherence, chosen=best")
    # 7.15 - 6.8 = 0.35, in floating point 0.35000000000000053
    assert texts(pairs(annotated("?", [B, A]), score=weights, min_margin=0.35)) == [(A[0], B[0], 0.35)]


def test_a_negative_weight_counts_against():
    # helpfulness - 0.5 verbosity:  A 4 - 0.5 = 3.5   CLOSE 4 - 2 = 2
    row = annotated("?", [CLOSE, A])
    assert texts(pairs(row, score={"helpfulness": 1, "verbosity": -0.5}, min_margin=1)) == [(A[0], CLOSE[0], 1.5)]


def test_names_stand_for_the_sums_of_the_paper():
    assert Pairs(score="paper") == Pairs(score=("helpfulness", "correctness", "coherence")) == Pairs()
    # helpfulness + correctness: A 8, B 7, C 6, so that B is no longer as good as A, and C is 2 below
    row = annotated("?", [A, B, C])
    assert texts(pairs(row, score="helpfulness_correctness")) == [(A[0], C[0], 2.0)]


def of_rubric(row: Annotated, *scores: dict[str, int]) -> Annotated:
    """The same completions, rated by another rubric."""
    (annotation,) = row.annotations
    ratings = tuple(Rating(completion_id=c.id, scores=s) for c, s in zip(row.completions, scores, strict=True))
    return replace(row, annotations=(replace(annotation, ratings=ratings, rubric="ultrafeedback"),))


def test_attributes_of_another_rubric():
    # UltraFeedback rates four attributes from 1 to 5
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    row = of_rubric(
        annotated("?", [A, D]),
        dict(zip(names, (5, 4, 5, 5), strict=True)),
        dict(zip(names, (2, 3, 1, 1), strict=True)),
    )
    assert texts(pairs(row, score=names)) == [(A[0], D[0], 12.0)]


def test_a_completion_without_one_of_the_attributes_counts_as_unrated():
    row = annotated("?", [A, D, C])
    full = dict.fromkeys(("helpfulness", "honesty"), 4)
    half, low = {"helpfulness": 1}, dict.fromkeys(("helpfulness", "honesty"), 1)
    how = {"score": ("helpfulness", "honesty")}
    assert texts(pairs(of_rubric(row, full, half, low), **how)) == [(A[0], C[0], 6.0)]
    assert failures(of_rubric(row, full, half, half), **how) == [
        (Reason.UNRATED, "1 of 3 completions are rated for honesty")
    ]
    # not one is rated for it, and no attribute is spelt like it: this prompt has no pair, others may
    assert failures(of_rubric(row, half, half, half), **how) == [
        (Reason.UNRATED, "0 of 3 completions are rated for honesty")
    ]


def test_an_attribute_given_by_one_of_two_passes_counts_by_that_pass():
    row = annotated("?", [A, D], more_passes=[[A[1], D[1]]])
    first, second = row.annotations
    rating, other = first.ratings
    partly = replace(first, ratings=(replace(rating, scores={"helpfulness": 0}), other))
    # helpfulness (0 + 4) / 2 = 2, correctness 4, coherence 3; D has 4
    assert texts(pairs(replace(row, annotations=(second, partly)))) == [(A[0], D[0], 5.0)]


# ------------------------------------------------------------------------------------------------- which are paired


def test_all_pairs_makes_one_of_any_two_that_differ_by_the_margin():
    # A 11, CLOSE 10, C 9, D 4
    row = annotated("?", [CLOSE, A, C, D])
    assert set(texts(pairs(row, rejected="all_pairs"))) == {
        (A[0], C[0], 2.0),
        (A[0], D[0], 7.0),
        (CLOSE[0], D[0], 6.0),
        (C[0], D[0], 5.0),
    }
    # several best: each is the better one of a pair, whatever `ties` says
    both = {(A[0], D[0], 7.0), (B[0], D[0], 7.0)}
    assert set(texts(pairs(annotated("?", [A, B, D]), rejected="all_pairs", ties="skip"))) == both


def test_all_pairs_takes_no_two_texts_both_ways():
    # A's text once with 11 and once with 4, C with 9: better and worse than C
    row = annotated("?", [A, (A[0], D[1]), C, ("A dog.", D[1])])
    assert texts(pairs(row, rejected="all_pairs")) == [(A[0], "A dog.", 7.0), (C[0], "A dog.", 5.0)]
    row = annotated("?", [A, (A[0], D[1]), C])
    assert failures(row, rejected="all_pairs") == [
        (Reason.IDENTICAL, "copies of one text are rated above and below those of another")
    ]


def test_max_pairs_draws_some_of_them_each_as_likely_as_the_next():
    row = annotated("?", [A, C, D, ("A dog.", D[1])])
    everything = texts(pairs(row, rejected="all_below_margin"))
    assert len(everything) == 3
    drawn = {
        tuple(texts(made))
        for seed in range(60)
        if (made := pairs(row, seed, rejected="all_below_margin", max_pairs=2)) and len(made) == 2
    }
    assert drawn == {tuple(p for p in everything if p != left_out) for left_out in everything}


def test_a_length_ratio_bounds_both_sides_and_another_is_drawn():
    short, long, right = ("no", D[1]), ("a very long answer indeed", D[1]), ("A dog..........", D[1])
    row = annotated("?", [A, short, long, right])  # characters: 14, 2, 25, 15
    how = {"rejected": "all_below_margin", "max_length_ratio": 1.5}
    assert texts(pairs(row, **how)) == [(A[0], right[0], 7.0)]
    assert len(pairs(row, rejected="all_below_margin", max_length_ratio=7)) == 3  # 14 = 7 * 2 is allowed
    assert {p.rejected.text for seed in range(9) for p in pairs(row, seed, max_length_ratio=1.5)} == {right[0]}
    assert failures(annotated("?", [A, short]), max_length_ratio=1.5) == [
        (Reason.FILTERED, "no pair within max_length_ratio 1.5")
    ]


def test_a_best_one_that_no_other_is_like_in_length_gives_way_to_another_best():
    longwinded = ("It is, as far as can be told from here, a red seven.", A[1])
    row = annotated("?", [longwinded, A, ("A red dog.", D[1])])
    assert {p.chosen.text for seed in range(9) for p in pairs(row, seed, max_length_ratio=2)} == {A[0]}


def test_cut_off_completions_are_kept_or_dropped():
    row = annotated("?", [A, D, C])
    cut = tuple(replace(c, finish_reason="length") if c.text == A[0] else c for c in row.completions)
    row = replace(row, completions=cut)
    assert texts(pairs(row, rejected="worst")) == [(A[0], D[0], 7.0)]
    assert texts(pairs(row, rejected="worst", cut_off="drop")) == [(C[0], D[0], 5.0)]
    all_cut = replace(row, completions=tuple(replace(c, finish_reason="length") for c in row.completions))
    assert failures(all_cut, cut_off="drop") == [(Reason.CUT_OFF, "3 of 3 completions were cut off at max_new_tokens")]


def test_options_that_are_on_stand_in_the_rule():
    (pair,) = pairs(annotated("?", [A, D]), max_pairs=1, max_length_ratio=3, cut_off="drop", length_gap=(None, 20))
    assert pair.rule == (
        "score=helpfulness+correctness+coherence, chosen=best, ties=random, rejected=random_below_margin, "
        "min_margin=2, cut_off=drop, max_length_ratio=3, max_pairs=1, length_gap=..20"
    )


def test_a_pair_carries_the_scores_of_both():
    (pair,) = pairs(annotated("?", [A, D]))
    assert pair.meta == {
        "scores": {"chosen": dict(zip(NAMES, A[1], strict=True)), "rejected": dict(zip(NAMES, D[1], strict=True))}
    }
    (flipped,) = pairs(annotated("?", [A, D]), flip=1.0)
    assert flipped.meta["scores"] == {
        "chosen": pair.meta["scores"]["rejected"],
        "rejected": pair.meta["scores"]["chosen"],
    }


def test_what_an_option_leaves_out_is_counted_pair_by_pair():
    # by the rule 3: against C (4 characters), D (6) and "A dog." (6); A has 14
    row = annotated("?", [A, C, D, ("A dog.", D[1])])
    assert Maker(Pairs(rejected="all_below_margin"), seed=0)(row).left_out == {}
    made = Maker(Pairs(rejected="all_below_margin", max_pairs=2, length_gap=(None, 3)), seed=0)(row)
    assert made.left_out == {"max_pairs": 1, "length_gap": 2}
    ((failure,),) = [made.sets["preference"]]
    assert failure.reason == Reason.FILTERED and failure.detail.endswith("characters, outside ..3")


# ------------------------------------------------------------------------------------------------- text and images


def test_rows_with_and_without_an_image_go_together():
    image = Image(path="a.png", sha256="ab" * 32)
    text = annotated("What is it?", [A, D])
    prompt = Prompt.of((Turn(role="user", text="<image>\nWhat is it?", images=(image,)),))
    shown = replace(
        text,
        prompt=prompt,
        completions=tuple(replace(c, prompt_id=prompt.id) for c in text.completions),
        annotations=tuple(replace(a, prompt_id=prompt.id) for a in text.annotations),
    )
    one, other = build_preference_pairs([text, shown], Pairs(), seed=0)
    assert isinstance(one, PreferencePair) and isinstance(other, PreferencePair)
    assert (one.prompt.images, other.prompt.images) == ((), (image,))


# --------------------------------------------------------------------------------------- as recipe and command line


def read(**options: str) -> tuple[Pairs, list[str]]:
    faults = Faults("mine.yaml", {})
    return Pairs(**read_block(Pairs, {k: parse_value(v) for k, v in options.items()}, "pairs", faults)), faults.texts


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("paper", ("helpfulness", "correctness", "coherence")),
        ("helpfulness_correctness", ("helpfulness", "correctness")),
        ("[helpfulness]", ("helpfulness",)),
        ("{helpfulness: 0.65, correctness: 1}", {"helpfulness": 0.65, "correctness": 1.0}),
    ],
)
def test_the_score_is_written_as_a_name_a_list_or_weights(written, means):
    assert read(score=written) == (Pairs(score=means), [])


def test_lengths_and_limits_are_written_as_numbers():
    assert read(length_gap="[null, 40]") == (Pairs(length_gap=(None, 40)), [])
    assert read(length_gap="balance", max_pairs="3") == (Pairs(length_gap="balance", max_pairs=3), [])
    assert read(length_gap="null", sets="[preference, hindsight]") == (Pairs(sets=("preference", "hindsight")), [])


@pytest.mark.parametrize(
    ("key", "written", "told"),
    [
        ("score", "papper", "text 'papper' is none of paper, helpfulness_correctness; did you mean 'paper'?"),
        ("score", "{helpfulness: much}", "pairs.score.helpfulness: expected a number, got text 'much'"),
        ("score", "3", "pairs.score: the number 3 is none of paper, helpfulness_correctness"),
        ("score", "null", "pairs.score: expected a value, got nothing"),
        ("sets", "[preference, dpo]", "pairs.sets.1: text 'dpo' is none of preference, steerlm, rejection, hindsight"),
        ("sets", "[]", "pairs.sets: expected a list [a, b], got an empty list"),
        ("length_gap", "[low, 3]", "pairs.length_gap.0: expected a whole number, got text 'low'"),
        ("max_pairs", "0", "pairs.max_pairs: 0 is impossible; it must be at least 1"),
        ("max_length_ratio", "0.5", "pairs.max_length_ratio: 0.5 is impossible; it must be at least 1"),
    ],
)
def test_what_is_wrongly_written_is_told(key, written, told):
    (fault,) = read(**{key: written})[1]
    assert told in fault


def test_impossible_settings_are_told_all_at_once():
    bad = Pairs(
        sets=("steerlm",),
        score={"helpfulness": 0.0},
        max_pairs=0,
        max_length_ratio=0.5,
        length_gap=(10, -10),
        steerlm_template="<image> {labels}",
        hindsight_template=" ",
    )
    with pytest.raises(UserError) as caught:
        Maker(bad, seed=0)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "pairs.sets",
        "pairs.score",
        "pairs.max_pairs",
        "pairs.max_length_ratio",
        "pairs.length_gap",
        "pairs.steerlm_template",
        "pairs.hindsight_template",
    ]
    with pytest.raises(UserError, match=r"pairs.score: 'helpfulness' is no name of a sum; .* write \[helpfulness\]"):
        Maker(Pairs(score="helpfulness"), seed=0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"rejected": "worse"},
            "pairs.rejected: 'worse' is none of random_below_margin, worst, all_below_margin, all_pairs",
        ),
        ({"ties": "skp"}, "pairs.ties: 'skp' is none of random, skip"),
        ({"chosen": "x"}, "pairs.chosen: 'x' is none of best"),
        ({"basis": "preference"}, "pairs.basis: 'preference' is none of scores, preferences"),
        ({"cut_off": "no"}, "pairs.cut_off: 'no' is none of keep, drop"),
        ({"min_margin": "2"}, "pairs.min_margin: '2' is not a number"),
        ({"max_pairs": True}, "pairs.max_pairs: True is not a whole number or None"),
        ({"score": 3}, "pairs.score: 3 is not a tuple of (text) or a dict of a number by name or 'paper' or "),
        ({"sets": ("preference", "dpo")}, "pairs.sets: ('preference', 'dpo') is not a tuple of ('preference' or "),
        (
            {"length_gap": "balanced"},
            "pairs.length_gap: 'balanced' is not a tuple of (a whole number or None) or 'balance' or None",
        ),
    ],
)
def test_options_given_in_python_are_checked_like_those_of_a_recipe(options, told):
    with pytest.raises(UserError) as caught:
        list(build_preference_pairs([], Pairs(**options), seed=0))
    (fault,) = caught.value.faults
    assert fault.startswith(told)


def test_a_list_is_as_good_as_a_tuple():
    assert Pairs(length_gap=[0, 10], score=["helpfulness"]) == Pairs(length_gap=(0, 10), score=("helpfulness",))
