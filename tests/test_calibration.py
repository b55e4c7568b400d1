"""The calibration card, section by section, of annotators whose faults are written down in `graded.py`."""

from __future__ import annotations

import random

import numpy as np
import pytest
from graded import (
    ATTRIBUTES,
    SUM,
    TEXTS,
    annotation,
    card_of,
    compared,
    completions_of,
    known,
    levels,
    prompt_of,
    rated,
)

from align.calibration import card_text
from align.calibration.position import rotation_p
from align.calibration.readings import preference_of
from annotate.records import Annotated, Rubric, Scale, replace
from annotate.run import shown_order

HELPSTEER = Rubric(name="helpsteer", sha256="0" * 64, attributes=dict.fromkeys(ATTRIBUTES, Scale(low=0, high=4)))

# ------------------------------------------------------------------------------------------------------- consistency


def test_a_perfectly_consistent_annotator():
    """Four passes in four orders: each completion keeps its score, and each place gets every completion once."""
    card = card_of([rated(i, lambda index, place, k: index, passes=4) for i in range(12)])
    for name in (*ATTRIBUTES, SUM):
        found = card["consistency"]["measures"][name]
        for coefficient in ("kappa", "alpha_ordinal", "alpha_interval", "tau_b"):
            assert known(found[coefficient]) == (1.0, 12)
        assert known(found["mean_absolute_difference"]) == (0.0, 12)
    flips = card["consistency"]["preferences"]
    assert known(flips["flip_rate"]) == (0.0, 12) and known(flips["decided"]) == (1.0, 12)
    assert flips["flip_rate"]["high"] == 0.2646  # 1 - 0.025^(1/12): twelve prompts are no proof of never
    assert card["position"]["p"]["value"] == 1.0 and card["position"]["spread"]["value"] == 0.0
    assert levels(card)["same order again"] == levels(card)["same scores again"] == "good"


def test_what_flips_is_counted():
    """Of three pairs of completions one reverses, one becomes a tie; scores move by 0, 2 and 1 in each attribute."""
    prompt = prompt_of(0)
    a, b, c = completions_of(prompt, "abc")
    first = annotation(prompt, [a, b, c], [1, 2, 3])
    second = annotation(prompt, [b, c, a], [0, 2, 1], pass_index=1)  # b falls below a; c stays above both
    card = card_of([Annotated(prompt=prompt, completions=(a, b, c), annotations=(first, second))])
    found = card["consistency"]["measures"]["correctness"]
    assert found["mean_absolute_difference"]["value"] == 1.0
    assert found["tau_b"]["value"] == pytest.approx(1 / 3, abs=1e-4)  # two pairs alike, one not
    flips = card["consistency"]["preferences"]
    assert known(flips["flip_rate"]) == known(flips["flip_rate_decided"]) == (0.3333, 1)
    assert flips["flip_rate"]["why"] == "an interval takes two prompts at least"


def test_an_annotator_that_throws_dice():
    dice = random.Random(0)
    card = card_of([rated(i, lambda *_: dice.randint(0, 4), passes=2) for i in range(60)])
    found = card["consistency"]["measures"]["correctness"]
    for coefficient in ("kappa", "alpha_ordinal", "alpha_interval", "tau_b"):
        assert found[coefficient]["low"] < 0 < found[coefficient]["high"], coefficient
    assert card["consistency"]["preferences"]["flip_rate"]["value"] > 0.3
    assert levels(card)["same order again"] == levels(card)["same scores again"] == "bad"


def test_kappa_of_three_passes_is_the_mean_of_each_two():
    """The third pass gives all one point more: kappa 1 of the first two, 1 - 1 / (2 * 1.25 + 1) of the others."""
    records = [rated(i, lambda index, place, k: index + (k == 2), passes=3, seed=1) for i in range(4)]
    found = card_of(records)["consistency"]["measures"]["coherence"]
    assert found["kappa"]["value"] == pytest.approx((1 + 2 * (1 - 1 / 3.5)) / 3, abs=1e-4)
    assert found["mean_absolute_difference"]["value"] == pytest.approx(2 / 3, abs=1e-4)


def test_a_pass_that_is_missing_is_missing():
    """Prompt 0 has both passes, prompt 1 only the first, prompt 2 only the second: one prompt is compared."""
    records = [rated(i, lambda index, place, k: index, passes=2) for i in range(3)]
    records[1] = replace(records[1], annotations=records[1].annotations[:1])
    records[2] = replace(records[2], annotations=records[2].annotations[1:])
    card = card_of(records)
    assert card["consistency"]["n"] == 1
    assert card["consistency"]["passes"] == [{"passes": 1, "prompts": 2}, {"passes": 2, "prompts": 1}]
    assert known(card["consistency"]["measures"]["correctness"]["alpha_ordinal"]) == (1.0, 1)
    assert card["scores"]["measures"]["correctness"]["n_ratings"] == 16


def test_one_pass_says_nothing_of_consistency():
    card = card_of([rated(0, lambda index, place, k: index)])
    assert card["consistency"] == {"n": 0, "why": "every prompt has one pass (annotate.passes: 2 or more tells)"}
    assert levels(card)["consistency"] == "info"


def test_where_everything_gets_the_same_score_agreement_is_undefined():
    card = card_of([rated(i, lambda *_: 4, passes=2) for i in range(5)])
    found = card["consistency"]["measures"]["correctness"]
    assert found["kappa"]["value"] is None and "all scores are the same" in found["kappa"]["why"]
    assert found["tau_b"]["value"] is None and card["position"]["p"]["value"] is None
    assert card["scores"]["measures"][SUM]["saturated"]["value"] == 1.0
    assert levels(card)["no preference"] == "bad"


# ---------------------------------------------------------------------------------------------------------- position


def test_a_place_that_earns_a_point_is_found():
    """A point more in each of three attributes for the first place: 3 * 3/4 above the mean, others 3 * 1/4 below."""
    card = card_of([rated(i, lambda index, place, k: 2 + (place == 0)) for i in range(20)])
    found = card["position"]
    assert [s["effect"]["value"] for s in found["slots"]] == [2.25, -0.75, -0.75, -0.75]
    assert [s["mean"]["value"] for s in found["slots"]] == [9.0, 6.0, 6.0, 6.0]
    assert known(found["first_minus_last"]) == (3.0, 20) and found["spread"]["value"] == 3.0
    assert found["eta_squared"]["value"] == 1.0 and found["p"]["value"] < 0.001
    assert levels(card)["place shown"] == "bad"


def test_it_is_found_among_differences_of_quality():
    dice = random.Random(3)
    quality = [[dice.randint(0, 3) for _ in range(4)] for _ in range(150)]
    card = card_of([rated(i, lambda index, place, k, q=quality[i]: q[index] + (place == 0)) for i in range(150)])
    found = card["position"]
    assert found["p"]["value"] < 0.001
    effect = found["slots"][0]["effect"]
    assert effect["low"] < 2.25 < effect["high"] and effect["low"] > 1.5


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_without_an_effect_p_is_uniform(passes):
    """200 runs of 20 prompts in the stage's own orders; scores keep from pass to pass but for noise."""
    found = []
    for seed in range(200):
        dice = np.random.default_rng(seed)
        quality = dice.integers(0, 9, size=(20, 4))
        totals = np.zeros((20, 4))
        for k in range(passes):
            orders = [shown_order(4, position=number, pass_index=k, seed=seed) for number in range(20)]
            totals += np.take_along_axis(quality + dice.integers(0, 3, size=(20, 4)), np.array(orders), axis=1)
        found.append(rotation_p(totals - totals.mean(axis=1, keepdims=True), seed=seed, draws=200))
    assert np.mean(np.array(found) < 0.05) < 0.1
    assert 0.42 < np.mean(found) < 0.58  # three and a half standard errors around a half
    assert np.mean(np.array(found) < 0.5) > 0.4


def test_alone_there_is_no_place():
    prompt = prompt_of(0)
    completions = completions_of(prompt, "ab")
    annotations = tuple(annotation(prompt, [c], [i], mode="pointwise") for i, c in enumerate(completions))
    card = card_of([Annotated(prompt=prompt, completions=completions, annotations=annotations)])
    assert "shown alone" in card["position"]["why"] and "place shown" not in levels(card)
    assert card["scores"]["measures"]["correctness"]["mean"]["value"] == 0.5


# ------------------------------------------------------------------------------------------------------------ length

BY_LENGTH = (1, 3, 2, 0)
"""What each of them gets from an annotator that loves length."""


def test_an_annotator_that_loves_length():
    card = card_of([rated(i, lambda index, place, k: BY_LENGTH[index], texts=TEXTS) for i in range(12)])
    assert known(card["length"]["spearman"][SUM]) == known(card["length"]["spearman"]["verbosity"]) == (1.0, 12)
    assert known(card["length"]["best_minus_worst"]) == (196.0, 12)  # 200 - 4 characters
    assert levels(card)["length"] == "bad"


def test_length_of_those_that_are_equally_good():
    """Best are the second and third, (200 + 30) / 2 characters, worst is the first; the prompt of ties says nothing."""
    scores = {0: (0, 4, 4, 1), 1: (2, 2, 2, 2)}
    card = card_of([rated(i, lambda index, place, k, s=scores[i]: s[index], texts=TEXTS) for i in range(2)])
    assert known(card["length"]["best_minus_worst"]) == (105.0, 1)
    assert card["length"]["spearman"][SUM]["n"] == 1


def test_an_annotator_to_whom_length_is_nothing():
    dice = random.Random(3)
    card = card_of([rated(i, lambda *_: dice.randint(0, 4), texts=TEXTS) for i in range(80)])
    rho = card["length"]["spearman"][SUM]
    assert rho["low"] < 0 < rho["high"] and levels(card)["length"] == "good"


# ------------------------------------------------------------------------------------------------------------ scores


def test_how_often_each_score_is_given():
    card = card_of([rated(0, lambda index, place, k: (0, 1, 1, 3)[index])], rubric=HELPSTEER)
    found = card["scores"]["measures"]["correctness"]
    assert [(row["level"], row["count"]) for row in found["levels"]] == [(0, 1), (1, 2), (2, 0), (3, 1), (4, 0)]
    assert found["mean"]["value"] == 1.25 and found["n_ratings"] == 4
    assert [row["level"] for row in card["scores"]["measures"][SUM]["levels"]] == list(range(13))


def test_saturated_is_what_the_mean_over_passes_leaves_equal():
    """1, 2 in one pass and 2, 1 in the other: equal on average, hence no pair; the other prompt gives one."""
    records = [
        rated(0, lambda index, place, k: 1 + (index + k) % 2, passes=2, texts="ab"),
        rated(1, lambda index, place, k: index, passes=2, texts="ab"),
    ]
    assert known(card_of(records)["scores"]["measures"]["correctness"]["saturated"]) == (0.5, 2)


@pytest.mark.parametrize(
    ("attributes", "summed"),
    [
        (ATTRIBUTES, ("helpfulness", "correctness", "coherence")),
        (("faithfulness", "verbosity"), ("faithfulness",)),
        (("correctness", "style"), ("correctness", "style")),
        (("verbosity",), ("verbosity",)),
    ],
)
def test_which_attributes_tell_the_better_one(attributes, summed):
    assert preference_of(attributes) == summed


# ---------------------------------------------------------------------------------------------------------- pairwise


def test_pairwise_the_one_that_always_takes_the_first():
    card = card_of([compared(i, lambda one, other: "first") for i in range(12)])
    found = card["position"]
    assert (found["mode"], found["n_preferences"], found["first"]["value"]) == ("pairwise", 24, 1.0)
    assert found["p"]["value"] < 0.001 and levels(card)["place shown"] == "bad"
    assert known(card["consistency"]["preferences"]["flip_rate"]) == (1.0, 12)
    assert card["consistency"]["measures"] == {} and "pairwise" in card["scores"]["why"]


def test_pairwise_the_one_that_always_takes_the_longer():
    card = card_of([compared(i, lambda one, other: "first" if one.index else "second") for i in range(12)])
    assert known(card["length"]["longer_preferred"]) == (1.0, 12) and card["length"]["p"]["value"] < 0.001
    assert card["position"]["first"]["value"] == 0.5 and card["position"]["p"]["value"] == 1.0
    assert card["consistency"]["preferences"]["flip_rate"]["value"] == 0.0
    assert "the longer one is preferred in 100%" in card_text(card)


def test_pairwise_ties_are_no_preference():
    card = card_of([compared(i, lambda one, other: "tie") for i in range(3)])
    assert card["position"]["first"]["value"] is None and card["position"]["tie"]["value"] == 1.0
    assert card["consistency"]["preferences"]["flip_rate"]["value"] == 0.0  # a tie reverses nothing
    assert card["consistency"]["preferences"]["flip_rate_decided"]["value"] is None
