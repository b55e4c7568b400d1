"""The calibration card of annotators whose faults are known, because they are written down here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from align.calibration import calibration_card, card_text
from align.calibration.checks import image_verdict
from align.calibration.position import rotation_p
from align.calibration.readings import preference_of
from align.calibration.words import LINES, WIDTH, findings, short
from align.report.calibration import card_html, card_page
from annotate.errors import RecordError
from annotate.records import Annotated, Annotation, Completion, Failure, Prompt, Rating, Reason, Rubric, Scale, Turn
from annotate.run import shown_order

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
HELPSTEER = Rubric(name="helpsteer", sha256="0" * 64, attributes=dict.fromkeys(ATTRIBUTES, Scale(low=0, high=4)))
SUM = "preference score"
Grade = Callable[[int, int, int], int]
"""Completion index, place from 0, pass -> the score, of every attribute alike."""


def prompt_of(number: int) -> Prompt:
    return Prompt.of((Turn(role="user", text=f"Question {number}?"),))


def completions_of(prompt: Prompt, texts: Sequence[str]) -> tuple[Completion, ...]:
    return tuple(Completion.of(prompt_id=prompt.id, model="m", index=i, text=t) for i, t in enumerate(texts))


def annotation(prompt: Prompt, shown: Sequence[Completion], scores: Sequence[int] = (), **more: Any) -> Annotation:
    """One call; every attribute of a completion gets the same score."""
    ratings = tuple(
        Rating(completion_id=c.id, scores=dict.fromkeys(ATTRIBUTES, s)) for c, s in zip(shown, scores, strict=False)
    )
    made = {
        "id": f"{prompt.id}-{more.get('pass_index', 0)}-{'-'.join(str(c.index) for c in shown)}",
        "prompt_id": prompt.id,
        "mode": "listwise",
        "pass_index": 0,
        "shown_order": tuple(c.id for c in shown),
        "ratings": ratings,
        "backend": "written",
        "model": "out",
        "rubric": "helpsteer",
        "rubric_sha256": "0" * 64,
        "request_sha256": "0",
    }
    return Annotation(**made | more)


def rated(number: int, grade: Grade, *, passes: int = 1, texts: Sequence[str] = "abcd", seed: int = 0) -> Annotated:
    """A prompt whose completions were shown as the stage shows them, and graded by `grade`."""
    prompt = prompt_of(number)
    completions = completions_of(prompt, texts)
    annotations = []
    for k in range(passes):
        order = shown_order(len(texts), position=number, pass_index=k, seed=seed)
        scores = [grade(index, place, k) for place, index in enumerate(order)]
        annotations.append(annotation(prompt, [completions[i] for i in order], scores, pass_index=k))
    return Annotated(prompt=prompt, completions=completions, annotations=tuple(annotations))


def card_of(annotated: Sequence[Annotated], checks: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
    given = {"funnel": {}, "cost_usd": 0.0, "calls": 0, "failures": ()} | more
    made = calibration_card(annotated, given.pop("failures"), checks, **given)
    assert_honest(made)
    return made


def assert_honest(card: Any) -> None:
    """Whatever is null says why; nothing is infinite; every figure says how many prompts it rests on."""
    json.dumps(card, allow_nan=False)
    if isinstance(card, dict):
        if "value" in card:
            assert "n" in card, card
            assert (card["value"] is None) <= bool(card.get("why")), card
            assert "low" not in card or (card["low"] is None) <= bool(card.get("why")), card
        for part in card.values():
            assert_honest(part)
    elif isinstance(card, list):
        for part in card:
            assert_honest(part)


def levels(card: dict[str, Any]) -> dict[str, str]:
    return {f.topic: f.level for f in findings(card)}


def known(figure: dict[str, Any]) -> tuple[float, int]:
    return figure["value"], figure["n"]


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

TEXTS = ("x" * 10, "x" * 200, "x" * 30, "x" * 4)
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


# ------------------------------------------------------------------------------------------------------------ checks


def check(kind: str, record: Annotated, change: Callable[[str, int], int] = lambda name, score: score) -> dict:
    """A check with the completions in the order of pass 0 and its scores after `change`."""
    ratings = record.annotations[0].ratings
    scores = [{name: change(name, score) for name, score in r.scores.items()} for r in ratings]
    shown = [r.completion_id for r in ratings]
    return {"kind": kind, "prompt_id": record.prompt.id, "shown": shown, "scores": scores}


def twenty(passes: int = 1) -> list[Annotated]:
    return [rated(i, lambda index, place, k: 1 + index % 3, passes=passes) for i in range(20)]


def test_an_annotator_that_does_not_look():
    records = twenty()
    card = card_of(records, [check("blind", r) for r in records])
    found = card["checks"]["blind"]
    assert known(found["measures"]["correctness"]["mean_change"]) == (0.0, 20)
    assert found["changed"]["value"] == 0.0 and found["changed"]["high"] == 0.1684  # 1 - 0.025^(1/20)
    assert found["verdict"]["depends"] == "no"
    assert found["verdict"]["text"].startswith("scores do not depend on the image (correctness without it +0.00")
    assert findings(card)[0].topic == "image withheld" and findings(card)[0].level == "bad"


def test_an_annotator_that_looks():
    records = twenty()
    card = card_of(records, [check("wrong_image", r, lambda name, s: s - (name == "correctness")) for r in records])
    found = card["checks"]["wrong_image"]
    assert found["verdict"]["depends"] == "yes" and levels(card)["wrong image"] == "good"
    assert known(found["measures"]["correctness"]["mean_change"]) == (-1.0, 20)
    assert known(found["measures"]["helpfulness"]["mean_change"]) == (0.0, 20)
    assert known(found["measures"][SUM]["mean_change"]) == (-1.0, 20) and found["changed"]["value"] == 1.0
    assert card["checks"]["blind"] == {"n": 0, "why": "not asked for (annotate.checks.blind)"}


def test_three_prompts_are_no_verdict():
    records = twenty()
    card = card_of(records, [check("blind", r) for r in records[:3]])
    assert card["checks"]["blind"]["verdict"]["depends"] == "not shown" and levels(card)["image withheld"] == "mind"


def test_a_prompt_that_has_no_scores_to_compare_with_is_counted():
    records = twenty()
    card = card_of(records[:15], [check("blind", r) for r in records])
    assert (card["checks"]["blind"]["n"], card["checks"]["blind"]["n_unmatched"]) == (15, 5)
    gone = card_of(records[:5], [check("blind", r) for r in records[5:]])["checks"]["blind"]
    assert gone["why"] == "pass 0 scored none of these completions" and gone["n_unmatched"] == 15


def bounded(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 40}


@pytest.mark.parametrize(
    ("change", "size", "noise", "depends"),
    [
        (bounded(-1.0, -1.2, -0.8), bounded(1.0, 0.8, 1.2), None, "yes"),
        (bounded(-0.1, -0.15, -0.05), bounded(0.1, 0.05, 0.15), None, "hardly"),  # surely, and surely little
        (bounded(-0.3, -0.7, 0.1), bounded(0.9, 0.8, 1.0), None, "not shown"),  # anything may be
        (bounded(0.0, -0.1, 0.1), bounded(0.1, 0.05, 0.2), None, "no"),
        (bounded(0.0, -0.1, 0.1), bounded(0.9, 0.8, 1.0), None, "not shown"),  # up and down: noise, or the image?
        (bounded(0.0, -0.1, 0.1), bounded(0.9, 0.8, 1.0), bounded(0.85, 0.8, 0.9), "no"),  # it is noise
        (bounded(0.0, -0.1, 0.1), bounded(0.9, 0.8, 1.0), bounded(0.2, 0.1, 0.3), "yes"),  # it is the image
    ],
)
def test_verdicts_on_images(change, size, noise, depends):
    found = {"mean_change": change, "mean_absolute_change": size}
    said = image_verdict("blind", "correctness", found, margin=0.25, noise=noise, n=40)
    assert said["depends"] == depends, said["text"]


def test_duplicates():
    """Twelve prompts; in the first three the second copy gets one point less in each attribute."""
    records = twenty()[:12]
    lines = []
    for i, record in enumerate(records):
        line = check("duplicate", record)
        line["shown"].append(line["shown"][0])
        line["scores"].append({name: score - (i < 3) for name, score in line["scores"][0].items()})
        lines.append(line)
    card = card_of(records, lines)
    found = card["checks"]["duplicate"]["measures"]
    assert known(found["correctness"]["equal"]) == known(found[SUM]["equal"]) == (0.75, 12)
    assert found["correctness"]["mean_absolute_difference"]["value"] == 0.25
    assert found["correctness"]["later_minus_earlier"]["value"] == -0.25
    assert found[SUM]["mean_absolute_difference"]["value"] == 0.75
    assert levels(card)["duplicates"] == "mind" and card["outcomes"]["answered_checks"] == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "odd"}, "kind 'odd' is none of duplicate, wrong_image, blind"),
        ({"scores": []}, "0 scores for 4 completions"),
        ({"kind": "duplicate"}, "0 completions are shown twice in a check of kind duplicate"),
    ],
)
def test_a_check_that_does_not_hold_together_is_refused(change, said):
    record = twenty()[0]
    with pytest.raises(RecordError, match=said):
        card_of([record], [check("blind", record) | change])


# ---------------------------------------------------------------------------------------------------------- pairwise


def compared(number: int, prefer: Callable[[Completion, Completion], str], passes: int = 2) -> Annotated:
    """Two completions, the second of them twice as long; in the second pass they change places."""
    prompt = prompt_of(number)
    a, b = completions_of(prompt, ("short", "long, long"))
    orders = [(a, b), (b, a)][:passes] if number % 2 else [(b, a), (a, b)][:passes]
    annotations = tuple(
        annotation(prompt, shown, mode="pairwise", preference=prefer(*shown), pass_index=k)
        for k, shown in enumerate(orders)
    )
    return Annotated(prompt=prompt, completions=(a, b), annotations=annotations)


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


# ------------------------------------------------------------------------------------------------- outcomes and cost


def failed(number: int, reason: Reason) -> Failure:
    return Failure(stage="annotate", record_id=prompt_of(number).id, reason=reason)


def test_outcomes_by_reason():
    """Eight questions of six prompts: prompt 0 in part, 1 to 3 whole, 8 and 9 lost."""
    records = [rated(i, lambda index, place, k: index) for i in range(4)]
    failures = [failed(0, Reason.UNPARSABLE), failed(8, Reason.BLOCKED), failed(9, Reason.BLOCKED)]
    card = card_of(records, failures=failures, funnel={"prompts": 6, "annotated": 4})
    found = card["outcomes"]
    assert (found["n"], found["answered"], found["failed"]) == (7, 4, 3)
    assert found["reasons"] == [{"reason": "blocked", "count": 2}, {"reason": "unparsable", "count": 1}]
    assert found["prompts"] == {"annotated": 3, "in_part": 1, "lost": 2}
    assert found["funnel"] == [{"step": "prompts", "count": 6}, {"step": "annotated", "count": 4}]
    assert "3 of 7 (42.9%): blocked 2, unparsable 1" in card_text(card)


def test_cost_tokens_and_versions():
    records = []
    for i in range(3):
        record = rated(i, lambda index, place, k: index)
        usage = {"input_tokens": 1000, "output_tokens": 100 * i, "thought_tokens": 7}
        told = replace(record.annotations[0], usage=usage, model_version=f"judge-00{i % 2}")
        records.append(replace(record, annotations=(told,)))
    card = card_of(records, cost_usd=0.6, calls=5)
    assert (card["cost"]["usd"]["value"], card["cost"]["usd_per_prompt"]["value"], card["cost"]["calls"]) == (
        0.6,
        0.2,
        5,
    )
    assert [(t["kind"], t["total"], t["per_annotation"]["value"]) for t in card["cost"]["tokens"]] == [
        ("input_tokens", 3000, 1000.0),
        ("output_tokens", 300, 100.0),
        ("thought_tokens", 21, 7.0),
    ]
    assert [(v["version"], v["annotations"]) for v in card["annotator"]["versions"]] == [
        ("judge-000", 2),
        ("judge-001", 1),
    ]
    assert levels(card)["model version"] == "mind"  # two models rated one set
    assert card["annotator"]["rubrics"][0] == {"rubric": "helpsteer", "sha256": "0" * 64, "annotations": 3}
    assert card_of(records, cost_usd=None)["cost"]["usd"]["value"] is None


def test_one_prompt_has_figures_but_no_intervals():
    card = card_of([rated(0, lambda index, place, k: index, passes=2)])
    mean = card["scores"]["measures"]["correctness"]["mean"]
    assert mean == {"value": 1.5, "low": None, "high": None, "n": 1, "why": "an interval takes two prompts at least"}
    assert card["position"]["p"]["value"] is None
    assert card_html(card)


@pytest.mark.parametrize("failures", [(), [failed(i, Reason.BLOCKED) for i in range(3)]])
def test_nothing_is_annotated(failures):
    card = card_of([], failures=failures)
    assert card["outcomes"]["failed"] == len(failures) and card["outcomes"]["prompts"]["lost"] == len(failures)
    assert card["cost"]["usd_per_prompt"]["value"] is None
    for section in ("scores", "position", "length", "consistency"):
        assert card[section] == {"n": 0, "why": "nothing is annotated"}
    assert card_text(card).startswith(f"calibration: nothing is annotated, {len(failures)} failures")
    assert well_formed(card_page(card))


# ------------------------------------------------------------------------------------------------ order, words, page


def everything(seed: int = 0) -> tuple[list[Annotated], list[Failure], list[dict[str, Any]]]:
    """A run with all there is: two passes, noise, failures, every check."""
    dice = random.Random(seed)
    records = [
        rated(i, lambda index, place, k: min(4, index + dice.randint(0, 1)), passes=2, texts=TEXTS) for i in range(14)
    ]
    lines = [check(kind, r) for kind in ("wrong_image", "blind") for r in records]
    for record in records:
        line = check("duplicate", record)
        lines.append(
            line | {"shown": [*line["shown"], line["shown"][2]], "scores": [*line["scores"], line["scores"][2]]}
        )
    return records, [failed(40 + i, Reason.BLOCKED if i else Reason.CUT_OFF) for i in range(3)], lines


def test_the_order_of_the_input_is_no_matter():
    records, failures, lines = everything()
    first = json.dumps(card_of(records, lines, failures=failures))
    for seed in range(3):
        dice = random.Random(seed)
        turned = [
            replace(
                r,
                completions=tuple(dice.sample(r.completions, 4)),
                annotations=tuple(
                    replace(a, ratings=tuple(dice.sample(a.ratings, 4))) for a in dice.sample(r.annotations, 2)
                ),
            )
            for r in dice.sample(records, len(records))
        ]
        again = card_of(turned, dice.sample(lines, len(lines)), failures=dice.sample(failures, len(failures)))
        assert json.dumps(again) == first


def test_another_seed_moves_intervals_and_nothing_else():
    records, failures, lines = everything()
    one, other = (card_of(records, lines, failures=failures, seed=seed) for seed in (0, 1))
    alpha = [c["consistency"]["measures"][SUM]["alpha_ordinal"] for c in (one, other)]
    assert alpha[0]["value"] == alpha[1]["value"] and alpha[0] != alpha[1]
    assert alpha[0]["low"] == pytest.approx(alpha[1]["low"], abs=0.05)


def test_the_terminal_gets_a_dozen_lines_worst_first():
    records, failures, lines = everything()
    text = card_text(card_of(records, lines, failures=failures, calls=99, cost_usd=1.5))
    rows = text.splitlines()
    assert len(rows) <= LINES == 12 and max(map(len, rows)) <= WIDTH == 120
    assert rows[0] == "calibration: 14 prompts, 28 listwise annotations by written out"
    marks = [row[:2] for row in rows[1:-1]]
    assert marks == sorted(marks, key=["!!", "! ", "ok", "  "].index) and marks[0] == "!!"
    assert rows[-1] == "   cost: 99 calls, $1.50 ($0.1071 a prompt)"


def test_long_counts_are_short():
    assert [short(n) for n in (12, 9_999, 12_345, 999_949, 999_950)] == ["12", "9,999", "12.3k", "999.9k", "1.00M"]


EVIL = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m"


class Tree(HTMLParser):
    """Notes which elements are open, and complains of one that is closed out of turn."""

    VOID = frozenset({"meta", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)  # <line/>: opened and closed

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> out of turn"


def well_formed(html: str) -> set[str]:
    """The elements of a page in which all that is opened is closed."""
    tree = Tree()
    tree.feed(html)
    tree.close()
    assert tree.open == []
    return tree.seen


def test_hostile_names_are_shown_and_never_run():
    records, failures, lines = everything()
    hostile = [
        replace(
            r,
            annotations=tuple(
                replace(
                    a,
                    backend=EVIL,
                    model=EVIL,
                    model_version=EVIL + str(a.pass_index),
                    rubric=EVIL,
                    rubric_sha256=EVIL,
                    usage={EVIL: 3},
                    ratings=tuple(replace(x, scores={**x.scores, EVIL: 1}) for x in a.ratings),
                )
                for a in r.annotations
            ),
        )
        for r in records
    ]
    card = card_of(hostile, lines, failures=failures, funnel={EVIL: 3})
    page = card_page(card)
    seen = well_formed(page)
    assert "svg" in seen and not seen & {"script", "img", "iframe", "link"}
    assert page.count("<style>") == page.count("</style>") == 1 and "&lt;script&gt;" in page
    assert "\x1b" not in card_text(card)


def test_the_page_asks_nobody_for_anything():
    records, failures, lines = everything()
    page = card_page(card_of(records, lines, failures=failures))
    assert "http:" not in page and "https" not in page and "url(" not in page and "default-src 'none'" in page
    assert page == card_page(card_of(records, lines, failures=failures))


@pytest.mark.parametrize("records", [[compared(i, lambda a, b: "first") for i in range(3)], everything()[0][:1]])
def test_every_kind_of_card_makes_a_page(records):
    assert well_formed(card_page(card_of(records)))


def test_the_report_shows_the_card_where_there_is_one():
    from align.report.gather import Findings
    from align.report.page import render_page, report_json

    card = card_of(everything()[0])
    with_card = Findings(title="t", name="n", seed=0, calibration=card)
    assert card_html(card) in render_page(with_card, None, cards=0)
    assert report_json(with_card, None)["calibration"] == card
    assert "calibration" not in render_page(Findings(title="t", name="n", seed=0), None, cards=0).split("</style>")[1]


def test_a_run_from_before_there_was_a_card_is_read_like_any_other(tmp_path):
    from small_run import annotate_recipe, finish

    from align.base import Models
    from align.recipe import load_recipe
    from align.report.gather import gather
    from align.runner import Prompted, RunContext

    recipe = load_recipe(annotate_recipe(tmp_path), [f"runs={tmp_path / 'runs'}"])
    context = RunContext(recipe, "report", Models(recipe), Prompted(recipe))
    outputs = {"annotated.jsonl": [], "failures.jsonl": []}
    finish(recipe, "annotate", outputs)
    finish(recipe, "pairs", {"preference.jsonl": [], "failures.jsonl": [], "funnel.json": {}})
    assert gather(context).calibration == {}
    finish(recipe, "annotate", outputs | {"calibration.json": card_of([])})
    assert gather(context).calibration == card_of([])
