"""Each statistic of the doctor on records whose answer is worked out beside them."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from doctored import Record, compared, pair, points, prompt_of, rated, report_of, thirds
from graded import rated as graded
from hypothesis import given, settings
from hypothesis import strategies as st

from align.calibration import calibration_card
from align.doctor import Collector
from align.doctor.annotator import pearson_of
from align.doctor.collect import key_of, name_of, yes_or_no
from align.doctor.margins import bins
from align.doctor.sampling import Clusters
from align.doctor.scored import scored
from align.doctor.vocabulary import PRIOR, log_odds
from align.doctor.words import findings
from align.formats.helpsteer import ATTRIBUTES as HELPSTEER
from align.formats.reading import read_file
from align.formats.store import ImageStore
from align.pairs import Pairs, build_preference_pairs
from align.pairs.score import mean_scores
from align.report.doctor import doctor_page
from annotate.records import Annotated, Example, Failure, Image, Prompt, Rating, Reason, Turn, replace

SUM = "preference score"

# -------------------------------------------------------------------------------------------------------------- size


def test_counts_by_kind_and_source():
    cat = Image(path="cat.jpg", sha256="c" * 64)
    seen = Prompt.of((Turn(role="user", text="<image>\nWhat is it?", images=(cat,)),), source="photos")
    records = [
        rated(1, points(a=1, b=2), source="text"),
        pair(1, "b", "a", source="text"),
        pair(1, "c", "a", source="text"),
        pair(2, "x", "y", source="more"),
        Example.of(prompt=seen, completion="A cat.", source="rejection"),
        seen,
    ]
    size = report_of(records)["size"]
    assert {k: v for k, v in size.items() if k != "sources"} == {
        "n": 3, "prompts": 1, "annotated": 1, "pairs": 3, "examples": 1, "completions": 2, "completions_scored": 2,
        "annotations": 1, "annotated_and_paired": 1, "prompts_with_images": 1, "images": 1, "images_known_by_path": 0,
    }  # fmt: skip
    assert size["sources"] == [
        {"source": "more", "distinct_prompts": 1, "prompts": 0, "annotated": 0, "pairs": 1, "examples": 0},
        {"source": "photos", "distinct_prompts": 1, "prompts": 1, "annotated": 0, "pairs": 0, "examples": 1},
        {"source": "text", "distinct_prompts": 1, "prompts": 0, "annotated": 1, "pairs": 2, "examples": 0},
    ]


def test_ids_are_kept_as_the_bits_they_are():
    assert name_of(key_of("00ab" * 4)) == "00ab" * 4
    assert key_of("my-own-id") != key_of("my-own-id2")
    assert key_of("sixteen letters!") == key_of("sixteen letters!")  # 16 characters that are no number


# ------------------------------------------------------------------------------------------- margins, ties, saturation


def test_margins_and_ties_of_pairs():
    """Known margins 2, 2, 4, 0, -1: mean 7 / 5; one of five is a tie, one is the wrong way round; one is not known."""
    margins = (2, 2, 4, 0, -1, None)
    report = report_of([pair(i, "a", "b", margin=m) for i, m in enumerate(margins)])
    found = report["margins"]["pairs"]
    assert (found["mean"]["value"], found["median"], found["negative"], found["n_unknown"]) == (1.4, 2.0, 1, 1)
    assert [(b["low"], b["count"]) for b in found["bins"]] == [(-1, 1), (0, 1), (1, 0), (2, 2), (3, 0), (4, 1)]
    assert report["ties"]["of"] == "pairs"
    assert (report["ties"]["share"]["value"], report["ties"]["share"]["n"]) == (0.2, 5)


def test_bins_have_round_steps():
    assert [b["low"] for b in bins(np.array([0.0, 0.1, 0.95]))] == pytest.approx([i * 0.05 for i in range(20)])
    wide = bins(np.array([0.0, 100.0]))
    assert (wide[0]["high"] - wide[0]["low"], len(wide), sum(b["count"] for b in wide)) == (5.0, 21, 2)
    assert bins(np.array([3.0, 3.0])) == [{"low": 3.0, "high": 4.0, "count": 2}]
    assert [b["count"] for b in bins(np.array([0.3, 0.1 + 0.2]))] == [2]  # equal but for the last bit


def test_ties_and_saturation_of_scores():
    """Prompt 1: 4 4 1, of three pairs one is equal, two are best. Prompt 2: 3 3, saturated. Prompt 3: 1 2."""
    report = report_of([rated(1, points(a=4, b=4, c=1)), rated(2, points(a=3, b=3)), rated(3, points(a=1, b=2))])
    assert report["ties"]["of"] == "scores"
    assert report["ties"]["share"]["value"] == round(2 / 5, 4)
    assert report["ties"]["scores"]["several_best"]["value"] == round(2 / 3, 4)
    assert report["saturation"]["measures"]["helpfulness"]["value"] == round(1 / 3, 4)
    assert report["margins"]["best_minus_worst"]["mean"]["value"] == round((3 + 0 + 1) / 3, 4)


def test_sums_of_thirds_tie_as_they_do_where_pairs_are_built():
    """1/3 + 1/3 + 1/3 and 1 + 0 + 0: means that are rounded before they are summed make 0.999999 of the first."""
    row = thirds(1)
    failure = next(iter(build_preference_pairs([row], Pairs(), seed=0)))
    assert isinstance(failure, Failure) and failure.reason in (Reason.TIED, Reason.NO_MARGIN)
    report = report_of([row])
    assert report["ties"]["share"]["value"] == 1.0
    assert report["saturation"]["measures"]["preference score"]["value"] == 1.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=2), min_size=1, max_size=7))
def test_means_over_passes_are_those_that_pairs_are_built_from(passes: list[list[int]]) -> None:
    once = rated(1, points(a=0, b=0))
    calls = [
        replace(
            once.annotations[0], id=f"call-{k}", pass_index=k,
            ratings=tuple(replace(r, scores={"helpfulness": v}) for r, v in zip(_ratings(once), values, strict=True)),
        )
        for k, values in enumerate(passes)
    ]  # fmt: skip
    collector = Collector()
    collector.add(replace(once, annotations=tuple(calls)))
    found = scored(collector.tables())
    ours = {name_of(c): v for c, v in zip(found.completion, found.measures["helpfulness"].tolist(), strict=True)}
    assert ours == {c: scores["helpfulness"] for c, scores in mean_scores(calls).items()}


def _ratings(row: Annotated) -> tuple[Rating, ...]:
    return row.annotations[0].ratings


def test_weights_of_a_recipe_make_the_preference_score():
    scores = {"a": {"helpfulness": 2, "coherence": 4}, "b": {"helpfulness": 4, "coherence": 0}}
    plain = report_of([rated(1, scores)])
    assert plain["margins"]["best_minus_worst"]["mean"]["value"] == 2.0  # 6 against 4
    weighted = report_of([rated(1, scores)], score={"helpfulness": 1.0, "coherence": 0.5})
    assert weighted["margins"]["best_minus_worst"]["mean"]["value"] == 0.0  # 4 against 4
    assert weighted["saturation"]["score"] == "helpfulness + 0.5 × coherence"


# ------------------------------------------------------------------------------------------------ what is there twice


def test_repeated_contradictory_and_equal_pairs():
    records = [
        pair(1, "yes", "no"),
        pair(1, "yes", "no"),  # repeats
        pair(1, "no", "yes"),  # and says the opposite of both
        pair(2, "yes", "no"),  # another prompt: nothing of the kind
        pair(3, "same", "same"),  # equal to the letter; no contradiction of itself
        pair(4, "A  cat", "a cat\n"),  # equal but for spacing and case
    ]
    report = report_of(records)
    pairs, same = report["duplicates"]["pairs"], report["identical"]
    assert (pairs["repeated"], pairs["share"]["value"]) == (1, round(1 / 6, 4))
    assert (pairs["contradictory"], pairs["contradictory_share"]["value"]) == (3, 0.5)
    assert pairs["contradictory_examples"] == sorted({records[0].id, records[2].id})
    assert (same["exact"], same["folded"], same["share"]["value"]) == (1, 2, round(2 / 6, 4))
    assert same["examples"] == sorted([records[4].id, records[5].id])


def test_repeated_completions_and_prompts():
    """Of prompt 1, "a" and "A " say the same; "I cannot see it." answers prompts 1, 2 and 3."""
    no = "I cannot see it."
    spaced = Prompt.of((Turn(role="user", text="question  1?"),))
    records = [
        rated(1, points(**{"a": 1, "A ": 1, no: 0})),
        rated(2, points(**{no: 1, "x": 0})),
        rated(3, points(**{no: 1})),
        rated(3, points(**{no: 1})),
        spaced,
    ]
    found = report_of(records)["duplicates"]
    assert found["prompts"] == {"repeated": 1, "differ_in_spacing_or_case_only": 1}
    assert found["completions"]["n"] == 6  # the repeated row's completion is the same one
    assert found["completions"]["share"]["value"] == round(1 / 6, 4)
    assert found["completions"]["texts_of_several_prompts"] == 1
    assert found["completions"]["most_repeated"][0]["prompts"] == 3


# ------------------------------------------------------------------------------------------------------------ length


def test_length_of_pairs():
    """Characters 8:2, 4:2, 1:2, 3:3: the longer is chosen in 2 of 3; log ratios ln 4, ln 2, -ln 2, 0: mean ln 4 / 4."""
    texts = [("x" * 8, "xx"), ("xxxx", "xx"), ("x", "xx"), ("a b", "c d")]
    found = report_of([pair(i, *two) for i, two in enumerate(texts)])["length"]
    assert found["of"] == "pairs"
    assert (found["win_rate"]["value"], found["win_rate"]["n"]) == (round(2 / 3, 4), 3)
    assert (found["pairs"]["longer"], found["pairs"]["shorter"], found["pairs"]["equal"]) == (2, 1, 1)
    assert found["pairs"]["ratio"]["value"] == 1.414  # the square root of 2
    assert found["pairs"]["chosen_words"]["value"] == 1.25


def test_the_win_rate_is_taken_by_prompt_for_its_interval():
    """One prompt with 50 pairs is one observation: no interval."""
    records = [pair(1, "long" + str(i) * 3, "short") for i in range(50)]
    rate = report_of(records)["length"]["win_rate"]
    assert (rate["value"], rate["low"], rate["n"]) == (1.0, None, 1)


def test_length_and_score_within_prompts():
    """Prompt 1 rises with length (rho 1), prompt 2 falls (rho -1), prompt 3 is saturated and says nothing.

    Pairs of completions with two lengths and two scores: prompt 1 three of three won by the longer, prompt 2 none.
    """
    records = [
        rated(1, points(a=1, bb=2, ccc=3)),
        rated(2, points(a=3, bb=2, ccc=1)),
        rated(3, points(a=2, bb=2, ccc=2)),
    ]
    found = report_of(records)["length"]
    assert found["of"] == "scores"
    assert (found["scores"]["spearman"][SUM]["value"], found["scores"]["spearman"][SUM]["n"]) == (0.0, 2)
    assert found["win_rate"]["value"] == 0.5


def test_drift_takes_scores_from_the_annotated_rows():
    scores = {"long": {"helpfulness": 3, "verbosity": 4}, "no": {"helpfulness": 1, "verbosity": 1}}
    records: list[Record] = [pair(1, "long", "no"), pair(2, "long", "no"), pair(3, "long", "no")]
    records += [rated(1, scores), rated(2, {**scores, "no": {"helpfulness": 2, "verbosity": 4}})]
    found = report_of(records)["drift"]
    assert found["of"] == "chosen_minus_rejected"
    # prompt 1: 4 - 1; prompt 2: 4 - 4; prompt 3 is not annotated
    assert (found["measures"]["verbosity"]["value"], found["measures"]["verbosity"]["n"]) == (1.5, 2)
    assert found["measures"]["helpfulness"]["value"] == 1.5
    alone = report_of(records[:3])["drift"]
    assert alone == {"n": 0, "why": "cannot be known from pairs without scores; give the annotated file as well"}


def test_drift_without_pairs_is_between_best_and_worst():
    """Two are best, verbosity 4 and 2: mean 3; the worst has 0. The saturated prompt says nothing."""
    best = {
        "a": {"helpfulness": 3, "verbosity": 4},
        "b": {"helpfulness": 3, "verbosity": 2},
        "c": {"helpfulness": 0, "verbosity": 0},
    }
    found = report_of([rated(1, best), rated(2, points(a=1, b=1))])["drift"]
    assert found["of"] == "best_minus_worst"
    assert (found["measures"]["verbosity"]["value"], found["measures"]["verbosity"]["n"]) == (3.0, 1)


# --------------------------------------------------------------------------------------------------------- annotator


def test_place_and_length_agree_with_the_calibration_card():
    """The same records, the same seed: the same figures, intervals and p-values, computed from columns."""
    records = [graded(i, lambda index, place, k: (index + 2 * (place == 0)) % 5, passes=2) for i in range(60)]
    card = calibration_card(records, [], [], funnel={}, cost_usd=None, calls=0, seed=3)
    report = report_of(records, seed=3)
    theirs, ours = card["position"], report["position"]
    assert [s["effect"] for s in ours["slots"]] == [s["effect"] for s in theirs["slots"]]
    assert [s["mean"] for s in ours["slots"]] == [s["mean"] for s in theirs["slots"]]
    assert (ours["first_minus_last"], ours["p"]) == (theirs["first_minus_last"], theirs["p"])
    assert ours["effect"]["value"] == theirs["spread"]["value"]
    assert report["length"]["scores"]["spearman"] == card["length"]["spearman"]
    assert report["saturation"]["measures"][SUM] == card["scores"]["measures"][SUM]["saturated"]


def test_an_annotator_that_favours_the_first_place():
    """Every completion is worth 2, the one shown first gets 4: of 4, 1.5 above the mean, the others 0.5 below."""
    records = [graded(i, lambda index, place, k: 4 if place == 0 else 2) for i in range(40)]
    found = report_of(records)["position"]
    assert [s["effect"]["value"] for s in found["slots"]] == [4.5, -1.5, -1.5, -1.5]  # three attributes are summed
    assert found["effect"] == {"value": 6.0, "n": 40}  # no interval: it is never below 0, and would never meet it
    assert 0 < found["by_chance"]["value"] < 2
    assert found["p"]["value"] < 0.01


def test_what_chance_alone_makes_of_places_is_said_beside_the_effect():
    """Which completion is better is drawn, and so is its place: the effect is what chance makes, not 0."""
    draw = random.Random(5)
    report = report_of([graded(i, lambda index, place, k: draw.randrange(5)) for i in range(40)])
    found = report["position"]
    assert found["p"]["value"] > 0.05
    assert 0.3 < found["effect"]["value"] / found["by_chance"]["value"] < 2
    said = f"{found['effect']['value']:.2f} points apart ({found['by_chance']['value']:.2f} by chance alone)"
    assert said in doctor_page(report) and any(said in f.text for f in findings(report))


def test_ratings_by_people_have_no_place(tmp_path):
    """HelpSteer's completions stand in the order of their texts, the best one always first: nobody was shown that."""
    rows = [
        {"prompt": f"What is {i}?", "response": text, **dict.fromkeys(HELPSTEER, score)}
        for i in range(12)
        for text, score in (("a", 4), ("b", 1))
    ]
    (tmp_path / "helpsteer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    people = list(read_file(tmp_path / "helpsteer.jsonl", images=ImageStore(root=None)))
    report = report_of(people)
    found = report["position"]
    assert found["why"] == "people's ratings do not say in which order they saw the completions"
    assert (found["skipped"], report["size"]["completions_scored"]) == (12, 24)
    assert found["why"] in doctor_page(report).replace("&#x27;", "'")
    # beside an annotator's they change nothing of what is said about its places
    ours = [graded(i, lambda index, place, k: (index + place) % 5) for i in range(20)]
    alone, both = report_of(ours)["position"], report_of([*ours, *people])
    assert [s["mean"]["value"] for s in both["position"]["slots"]] == [s["mean"]["value"] for s in alone["slots"]]
    assert (alone["skipped"], both["position"]["skipped"]) == (0, 12)
    said = "12 annotations by people left out: the order they saw is not known"
    assert said in doctor_page(both) and any(said in f.text for f in findings(both))


def test_pairwise_preferences_for_the_first():
    """Eight said first, two second, two tie: 80% of ten, which is 0.3 beyond half; 2 of 12 tie."""
    said = ["first"] * 8 + ["second"] * 2 + ["tie"] * 2
    report = report_of([compared(i, ("a", "b"), p) for i, p in enumerate(said)])
    assert report["position"]["mode"] == "pairwise"
    assert report["position"]["first"]["value"] == 0.8
    assert report["position"]["effect"]["value"] == 0.3
    assert report["length"]["win_rate"]["value"] is None  # all as long
    assert report["position"]["p"]["value"] == pytest.approx(2 * (45 + 10 + 1) / 1024, abs=1e-4)  # binomial, two-sided
    assert (report["ties"]["of"], report["ties"]["share"]["value"]) == ("preferences", round(2 / 12, 4))


def test_pairwise_preferences_for_the_longer():
    """The longer one is preferred in the first and the third; a tie and two equal lengths say nothing."""
    said = [(("aa", "b"), "first"), (("aa", "b"), "second"), (("b", "aa"), "second"), (("aa", "b"), "tie"),
            (("a", "b"), "first")]  # fmt: skip
    found = report_of([compared(i, texts, preference) for i, (texts, preference) in enumerate(said)])["length"]
    assert (found["of"], found["win_rate"]["value"], found["win_rate"]["n"]) == ("preferences", round(2 / 3, 4), 3)


def test_pairs_that_carry_scores_tell_their_drift():
    """`align pairs` writes the scores into its pairs: with no annotated row, they are what is known of drift."""

    def carrying(number, chosen, rejected):
        sides = ({"helpfulness": h, "verbosity": v} for h, v in (chosen, rejected))
        return replace(pair(number, "a", "b"), meta={"scores": dict(zip(("chosen", "rejected"), sides, strict=True))})

    pairs = [carrying(1, (4, 2.5), (1, 0)), carrying(2, (3, 1), (3, 0.5))]
    found = report_of(pairs)["drift"]
    assert (found["of"], found["scored_in"], found["n"]) == ("chosen_minus_rejected", "pairs", 2)
    assert {n: f["value"] for n, f in found["measures"].items()} == {"helpfulness": 1.5, "verbosity": 1.5, SUM: 1.5}
    # a pair from elsewhere says nothing; what is no score is none
    strange = replace(pair(3, "a", "b"), meta={"scores": {"chosen": "4", "rejected": {}}})
    assert report_of([pair(4, "a", "b"), strange, *pairs])["drift"] == found
    # annotated rows go before
    ours = [rated(1, points(a=4, b=2))]
    assert report_of([*ours, *pairs])["drift"]["measures"]["helpfulness"]["value"] == 2.0
    assert report_of([*ours, *pairs])["drift"]["scored_in"] == "annotated rows"


def test_a_set_without_annotations_has_no_places():
    assert report_of([pair(1, "a", "b")])["position"]["why"] == "cannot be known without annotations"
    alone = report_of([rated(1, points(a=1)), rated(2, points(a=1))])["position"]
    assert alone["why"] == "each completion is shown alone: there is no place to favour"


def test_correlation_of_attributes():
    """Helpfulness 1 2 3 and coherence 1 3 2: r = 0.5; correctness is 1 throughout; length follows helpfulness."""
    rows = {"a": (1, 1, 1), "bb": (2, 1, 3), "ccc": (3, 1, 2)}
    names = ("helpfulness", "correctness", "coherence")
    found = report_of([rated(1, {t: dict(zip(names, v, strict=True)) for t, v in rows.items()})])["attributes"]
    cells = {(c["a"], c["b"]): c["all"] for c in found["cells"]}
    assert found["names"] == ["helpfulness", "correctness", "coherence", "characters"]
    assert cells["helpfulness", "coherence"]["value"] == 0.5
    assert cells["helpfulness", "characters"]["value"] == 1.0
    assert cells["helpfulness", "correctness"]["value"] is None
    assert cells["helpfulness", "correctness"]["why"] == "one of the two is the same everywhere"


def test_correlation_within_prompts_takes_out_how_hard_they_are():
    """Prompt 1 is easy, prompt 2 hard: over all, high goes with high; within each, with low."""
    easy = {"a": {"x": 4, "y": 3}, "b": {"x": 3, "y": 4}}
    hard = {"a": {"x": 1, "y": 0}, "b": {"x": 0, "y": 1}}
    (cell,) = (c for c in report_of([rated(1, easy), rated(2, hard)])["attributes"]["cells"] if c["b"] == "y")
    assert cell["within"]["value"] == -1.0
    assert cell["all"]["value"] == pytest.approx((9 - 1) / (9 + 1))  # between 4 * 1.5^2 = 9, within 4 * 0.5^2 = 1
    assert pearson_of(np.array([2.0, 0, 0, 0, 2, 0])) != pearson_of(np.array([2.0, 0, 0, 0, 2, 0]))  # not defined


# ------------------------------------------------------------------------------------------- polarity and vocabulary


def test_who_says_yes_and_who_wins():
    assert [yes_or_no(t) for t in ("Yes, it is.", "  NO!", "Nothing", "yesterday", "**No**, never")] == [
        1,
        -1,
        0,
        0,
        -1,
    ]
    positive, negative = {"meta": {"polarity": "positive"}}, {"meta": {"polarity": "negative"}}
    records = [
        pair(1, "Yes.", "No.", **positive),
        pair(2, "Yes, a cat.", "No cat.", **positive),
        pair(3, "No.", "Yes.", **positive),
        pair(4, "No.", "Yes.", **negative),
        pair(5, "Yes.", "It may be.", **positive),  # sets yes against neither
        pair(6, "No.", "Yes.", meta={"polarity": "unknown"}),
    ]
    found = report_of(records)["polarity"]
    assert (found["n"], found["n_unknown"], found["largest_share"]["value"]) == (5, 1, 0.8)
    by_name = {v["polarity"]: v for v in found["values"]}
    assert by_name["positive"]["yes_wins"]["value"] == round(2 / 3, 4)
    assert by_name["positive"]["chosen"] == {"yes": 3, "no": 1, "other": 0}
    assert by_name["positive"]["rejected"] == {"yes": 1, "no": 2, "other": 1}
    assert by_name["negative"]["yes_wins"]["value"] == 0.0
    assert found["all"]["yes_wins"]["value"] == round(2 / 5, 4)


def test_yes_against_no_by_score_where_there_are_no_pairs():
    """Yes 3 against No 1 (won) and No 3 (neither); the other two completions say neither."""
    scores = points(**{"Yes.": 3, "No.": 1, "No, none.": 3, "Perhaps": 4})
    found = report_of([rated(1, scores, meta={"polarity": "positive"})])["polarity"]
    assert found["values"][0]["of"] == "scores"
    assert found["values"][0]["yes_wins"]["value"] == 1.0
    assert found["values"][0]["completions"] == {"yes": 1, "no": 2, "other": 1}


def test_log_odds_with_a_prior():
    """Chosen: x 3, y 1. Rejected: x 1, y 3. Prior 1 each, so odds of x are 4 : 2 against 2 : 4."""
    delta, z = log_odds(np.array([3.0, 1.0]), np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    assert delta == pytest.approx([math.log(4), -math.log(4)])
    assert z == pytest.approx([math.log(4) / math.sqrt(1 / 4 + 1 / 2), -math.log(4) / math.sqrt(1 / 2 + 1 / 4)])


def test_words_that_tell():
    records = [pair(i, "however the cat sat " + "filler " * 5, "the cat sat " + "filler " * 5) for i in range(40)]
    records += [pair(100 + i, f"rare{i} only the cat", "the cat certainly sat") for i in range(6)]
    found = report_of(records)["vocabulary"]
    assert [(r["word"], r["chosen"], r["rejected"], r["chosen_pairs"]) for r in found["in_chosen"]] == [
        ("however", 40, 0, 40)
    ]
    total = found["words"]["chosen"] + found["words"]["rejected"]
    assert total == 40 * (9 + 8) + 6 * 8
    prior = PRIOR * 40 / total
    n, m = found["words"]["chosen"] + PRIOR, found["words"]["rejected"] + PRIOR
    delta = math.log((40 + prior) / (n - 40 - prior)) - math.log(prior / (m - prior))
    assert found["in_chosen"][0]["z"] == pytest.approx(delta / math.sqrt(1 / (40 + prior) + 1 / prior), abs=1e-3)
    assert not any(r["word"].startswith("rare") for r in found["in_chosen"])  # in one pair each


# --------------------------------------------------------------------------------------------- what cannot be known


def test_pairs_alone_say_what_they_cannot_say():
    report = report_of([pair(i, "a cat", "a dog") for i in range(3)])
    assert report["margins"]["pairs"]["why"] == "cannot be known from pairs without margins"
    assert report["ties"]["why"] == "cannot be known from pairs without margins"
    assert report["saturation"]["why"] == "there are no annotated rows with scores in the file"
    assert report["attributes"]["why"] == "there are no annotated rows with scores in the file"
    assert report["polarity"]["why"].startswith("cannot be known: no prompt says its polarity")
    assert report["length"]["win_rate"]["value"] is None  # all as long as each other
    assert report["leakage"]["why"] == "no evaluation set is named (--against NAME=FILE)"


def test_annotated_rows_alone_say_what_they_cannot_say():
    report = report_of([rated(i, points(a=1, bb=2)) for i in range(3)])
    for section in (report["margins"]["pairs"], report["identical"], report["vocabulary"]):
        assert section["why"] == "there are no pairs in the file"


def test_prompts_and_examples_alone_are_counted():
    report = report_of([prompt_of(1), Example.of(prompt=prompt_of(2), completion="x", source="s")])
    assert (report["size"]["n"], report["size"]["examples"]) == (2, 1)
    assert report["length"]["why"] == "there are no pairs, scores or preferences in the file"
    json.dumps(report, allow_nan=False)


# --------------------------------------------------------------------------------------------------- as a whole


def everything() -> list[Record]:
    draw = random.Random(7)
    made: list[Record] = []
    for i in range(12):
        texts = [f"{word} " * draw.randint(1, 6) for word in ("yes", "no", "perhaps", "cats")]
        scores = {t: {"helpfulness": draw.randint(0, 4), "verbosity": draw.randint(0, 4)} for t in texts}
        more = {"source": f"s{i % 3}", "meta": {"polarity": draw.choice(["positive", "negative"])} if i % 2 else {}}
        made.append(rated(i, scores, **more))
        made += [pair(i, texts[0], texts[1], margin=draw.randint(0, 3), **more), pair(i, texts[2], texts[1], **more)]
        made.append(compared(100 + i, ("a", "b"), draw.choice(["first", "second", "tie"])))
    return [*made, made[1], made[2]]


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(draw: random.Random) -> None:
    records = everything()
    expected = json.dumps(report_of(records))
    shuffled = [
        replace(r, completions=tuple(draw.sample(r.completions, len(r.completions)))) if isinstance(r, Annotated) else r
        for r in draw.sample(records, len(records))
    ]
    assert json.dumps(report_of(shuffled)) == expected


def test_many_prompts_are_resampled_in_groups():
    """10,000 prompts, half of whose pairs are won by the longer: the standard error of a share of 0.5 is 0.005."""
    collector = Collector()
    keys = np.sort(np.array([key_of(prompt_of(i).id) for i in range(10_000)], dtype=np.uint64))
    clusters = Clusters(keys)
    found = clusters.share(keys, np.arange(10_000) % 2 == 0, np.ones(10_000), "")
    assert (found["value"], found["n"], clusters.n) == (0.5, 10_000, 4096)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.005, rel=0.08)
    assert collector.tables().n("pairs") == 0


@pytest.mark.slow
def test_groups_of_prompts_keep_the_test_of_places_honest():
    """5,000 prompts, beyond the 4,096 clusters: no place is favoured, then one is by a tenth of a point."""
    draw = random.Random(1)
    fair = [rated(i, points(**{t: draw.randint(0, 4) for t in "abcd"})) for i in range(5000)]
    found = report_of(fair)["position"]
    assert found["n"] == 5000 and found["p"]["value"] > 0.05 and found["effect"]["value"] < 0.1
    leaning = [
        rated(i, points(**{t: draw.randint(0, 4) + (k == 3 and draw.random() < 0.2) for k, t in enumerate("abcd")}))
        for i in range(5000)
    ]
    assert report_of(leaning)["position"]["p"]["value"] < 0.01
