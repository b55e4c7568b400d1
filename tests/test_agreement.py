"""Agreement with people, with itself, with another annotator: small tables with the answers worked out here."""

import json
import math
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from doctored import thirds
from graded import ATTRIBUTES, annotation, assert_honest, completions_of, prompt_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score

from align.agreement import Collected, agreement, agreement_text, opinions_in
from align.cli import main
from align.reliability import nominal_kappa_of, pearson_of
from align.report.agreement import agreement_page
from annotate.errors import UserError
from annotate.jsonl import write_records
from annotate.records import Annotated, Completion, Image, PreferencePair, Prompt, Rating, Turn, replace

SIGN = {"first": 1, "tie": 0, "second": -1}
NAME = {1: "first", 0: "tie", -1: "second"}


def scored(prompt: Prompt, texts: tuple[str, ...], *scores: dict[str, int], **more: object) -> Annotated:
    """A prompt whose completions got these scores in one call."""
    completions = completions_of(prompt, texts)
    ratings = tuple(Rating(completion_id=c.id, scores=s) for c, s in zip(completions, scores, strict=True))
    return Annotated(
        prompt=prompt, completions=completions, annotations=(annotation(prompt, completions, ratings=ratings, **more),)
    )


def judged(prompt: Prompt, first: Completion, second: Completion, preference: str, n: int = 0) -> Annotated:
    """What one person says of two responses."""
    said = annotation(
        prompt, (first, second), mode="pairwise", preference=preference, backend="human", model="human", pass_index=n
    )
    return Annotated(prompt=prompt, completions=(first, second), annotations=(said,))


def against_people(rows: list[tuple[dict[str, int], dict[str, int], str]]) -> tuple[list[Annotated], list[Annotated]]:
    """Rows of scores of the first response, scores of the second, and what people prefer."""
    annotated, people = [], []
    for number, (first, second, preference) in enumerate(rows):
        row = scored(prompt_of(number), ("yes", "no"), first, second)
        annotated.append(row)
        people.append(judged(row.prompt, *row.completions, preference))
    return annotated, people


def report_of(annotated, people=None, other=None, **more) -> dict:
    collected = Collected(None if people is None else opinions_in(people), other)
    for row in annotated:
        collected.add(row)
    made = agreement(collected, **more)
    assert_honest(made)
    assert agreement_text(made) and agreement_page(made)
    return made


def cell(report: dict, a: str, b: str = "human preference") -> dict:
    (found,) = [c for c in report["human"]["heat_map"]["cells"] if {c["a"], c["b"]} == {a, b}]
    return found


# ----------------------------------------------------------------------------------------------- the two coefficients


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30))
def test_pearson_is_scipys(pairs):
    x, y = np.array(pairs, dtype=float).T
    r = float(pearson_of(np.array([len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(r)
    else:
        assert r == pytest.approx(pearsonr(x, y)[0])


def test_a_constant_that_is_no_binary_fraction_has_no_correlation():
    x, y = np.full(7, 1 / 3), np.arange(7.0)
    assert math.isnan(pearson_of(np.array([7, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_cohens_kappa_is_scikit_learns(pairs):
    table = np.zeros((3, 3))
    for i, j in pairs:
        table[i, j] += 1
    kappa = float(nominal_kappa_of(table.ravel()))
    x, y = zip(*pairs, strict=True)
    if len({*x, *y}) == 1:
        assert math.isnan(kappa)
    else:
        assert kappa == pytest.approx(cohen_kappa_score(x, y, labels=[0, 1, 2]))


# ------------------------------------------------------------------------------------------------------ with people


def test_the_heat_map_by_hand():
    def marks(helpfulness: int, correctness: int, coherence: int) -> dict[str, int]:
        return {"helpfulness": helpfulness, "correctness": correctness, "coherence": coherence}

    annotated, people = against_people(
        [  # helpfulness differs by 2, 1, -1, -2; correctness by 1 throughout; coherence never
            (marks(4, 2, 3), marks(2, 1, 3), "first"),
            (marks(3, 4, 0), marks(2, 3, 0), "first"),
            (marks(1, 1, 1), marks(2, 0, 1), "second"),
            (marks(0, 3, 4), marks(2, 2, 4), "first"),
        ]
    )
    report = report_of(annotated, people)
    found = report["human"]
    assert found["heat_map"]["names"] == [
        "helpfulness", "correctness", "coherence", "preference score", "human preference"
    ]  # fmt: skip
    # d = 2, 1, -1, -2 with mean 0; h = 1, 1, -1, 1 with mean 1/2: sum dh = 2, sum d^2 = 10, sum (h - 1/2)^2 = 3
    assert cell(report, "helpfulness")["value"] == round(2 / math.sqrt(30), 4)
    assert cell(report, "helpfulness")["value"] == round(float(pearsonr([2, 1, -1, -2], [1, 1, -1, 1])[0]), 4)
    assert (cell(report, "helpfulness")["n"], cell(report, "helpfulness")["pairs"]) == (4, 4)
    assert cell(report, "correctness")["why"] == "correctness differs by +1 in every pair"
    assert cell(report, "coherence")["why"] == "coherence never differs between the two responses"
    assert cell(report, "correctness")["value"] is None
    # the preference score is helpfulness + 1 everywhere: the same correlation
    assert cell(report, "preference score")["value"] == cell(report, "helpfulness")["value"]
    assert cell(report, "preference score", "helpfulness")["value"] == 1.0
    assert found["both_ways"] is False
    assert "differs by +1 in every pair" in agreement_text(report) and "nan" not in agreement_text(report).lower()


def help_of(difference: int) -> tuple[dict[str, int], dict[str, int]]:
    return {"helpfulness": max(difference, 0)}, {"helpfulness": max(-difference, 0)}


def test_agreement_with_ties_in_three_ways_by_hand():
    # annotator, people; (+1, 0, -1 of the first response)
    answers = [(1, 1), (1, 1), (-1, -1), (1, -1), (0, 1), (0, 0), (-1, 0), (1, 1), (-1, 1), (-1, -1)]
    annotated, people = against_people([(*help_of(ours), NAME[theirs]) for ours, theirs in answers])
    found = report_of(annotated, people)["human"]
    assert found["preferences"]["counts"] == {
        "same_winner": 5, "other_winner": 2, "only_we_tie": 1, "only_they_tie": 1, "both_tie": 1
    }  # fmt: skip
    prefer = found["preferences"]
    assert prefer["decided"]["value"] == round(5 / 7, 4)
    assert prefer["half"]["value"] == (5 + 1 + 2 * 0.5) / 10
    assert prefer["answer"]["value"] == (5 + 1) / 10
    ours, theirs = zip(*answers, strict=True)
    assert prefer["kappa"]["value"] == round(cohen_kappa_score(ours, theirs), 4)
    # by hand: 6 of 10 agree; shares 4, 2, 4 and 5, 2, 3 of ten: (20 + 4 + 12) / 100 by chance; (.6 - .36) / .64
    assert prefer["kappa"]["value"] == round(0.24 / 0.64, 4)
    decided = [(a, b) for a, b in answers if a and b]
    assert prefer["kappa_decided"]["value"] == round(cohen_kappa_score(*zip(*decided, strict=True)), 4)
    assert found["human"] == {"first": 5, "tie": 2, "second": 3}
    assert found["annotator"] == {"first": 4, "tie": 2, "second": 4}
    # people's ties are no +1 or -1: the correlations are of the other eight
    assert found["heat_map"]["pairs"] == 8
    assert cell({"human": found}, "helpfulness")["value"] == round(
        float(pearsonr(*zip(*[(a, b) for a, b in answers if b], strict=True))[0]), 4
    )
    low, high = (prefer["decided"][end] for end in ("low", "high"))
    assert low < 5 / 7 < high and prefer["decided"]["n"] == 7


def test_people_who_only_say_one_thing():
    annotated, people = against_people([(*help_of(d), "first") for d in (1, 2, 1)])
    report = report_of(annotated, people)
    assert cell(report, "helpfulness")["why"] == "human preference differs by +1 in every pair"
    assert report["human"]["preferences"]["kappa"]["why"].startswith("both always give one and the same answer")
    assert report["human"]["preferences"]["decided"]["value"] == 1.0


def test_only_ties_leave_nothing_to_correlate():
    annotated, people = against_people([(*help_of(0), "tie"), (*help_of(0), "tie")])
    report = report_of(annotated, people)
    assert cell(report, "helpfulness")["why"] == "no pair has both a helpfulness and the other"
    assert report["human"]["preferences"]["decided"]["why"] == "in no pair do both prefer one"


def test_pairs_of_chosen_and_rejected_count_both_ways():
    annotated, _ = against_people([(*help_of(d), "first") for d in (2, 1, -1, 3)])
    pairs = [
        PreferencePair.of(prompt=a.prompt, chosen=a.completions[0], rejected=a.completions[1], margin=None, rule="x")
        for a in annotated
    ]
    report = report_of(annotated, pairs)
    assert report["human"]["both_ways"] is True
    # each pair once as (d, 1) and once as (-d, -1): r = sum d / sqrt(sum d^2 * n) = 5 / sqrt(15 * 4)
    assert cell(report, "helpfulness")["value"] == round(5 / math.sqrt(60), 4)
    mirrored = [2, 1, -1, 3, -2, -1, 1, -3], [1] * 4 + [-1] * 4
    assert cell(report, "helpfulness")["value"] == round(float(pearsonr(*mirrored)[0]), 4)
    assert report["human"]["preferences"]["decided"]["value"] == 0.75
    assert report["human"]["preferences"]["kappa"]["value"] == 0.5  # half and half by chance: (.75 - .5) / .5


def test_several_people_on_one_pair_are_one_opinion():
    annotated, _ = against_people([(*help_of(1), "first"), (*help_of(1), "first")])
    one, two = annotated
    people = [
        *(judged(one.prompt, *one.completions, p, n) for n, p in enumerate(("first", "second", "first"))),
        judged(two.prompt, *two.completions, "first"),
        judged(two.prompt, *reversed(two.completions), "first"),  # the other way about: they cancel out
    ]
    found = report_of(annotated, people)["human"]
    assert found["joined"]["pairs"] == found["judged_more_than_once"] == 2
    assert found["human"] == {"first": 1, "tie": 1, "second": 0}


def test_an_annotator_that_only_compares():
    rows = []
    for number, (ours, theirs) in enumerate([("first", "first"), ("second", "second"), ("tie", "first")]):
        prompt = prompt_of(number)
        a, b = completions_of(prompt, ("yes", "no"))
        said = annotation(prompt, (b, a), mode="pairwise", preference=NAME[-SIGN[ours]])  # shown the other way about
        rows.append((Annotated(prompt=prompt, completions=(a, b), annotations=(said,)), judged(prompt, a, b, theirs)))
    report = report_of(*map(list, zip(*rows, strict=True)))
    assert report["score"] == []
    assert report["human"]["heat_map"]["names"] == ["annotator's preference", "human preference"]
    # (1, 1), (-1, -1), (0, 1)
    assert cell(report, "annotator's preference")["value"] == round(float(pearsonr([1, -1, 0], [1, -1, 1])[0]), 4)
    assert report["human"]["preferences"]["half"]["value"] == round(2.5 / 3, 4)


def test_sums_of_thirds_tie_as_they_do_where_pairs_are_built():
    """1/3 + 1/3 + 1/3 of three passes, and 1 + 0 + 0: a tie, whose verdict a mean that is rounded first would turn."""
    row = thirds(1)
    report = report_of([row], [judged(row.prompt, *row.completions, "first")])
    assert report["human"]["annotator"] == {"first": 0, "tie": 1, "second": 0}


def test_another_sum_of_attributes():
    annotated, people = against_people(
        [({"helpfulness": 4, "verbosity": 0}, {"helpfulness": 3, "verbosity": 3}, "first")] * 1
        + [({"helpfulness": 4, "verbosity": 0}, {"helpfulness": 3, "verbosity": 3}, "second")]
    )
    assert report_of(annotated, people)["human"]["annotator"] == {"first": 2, "tie": 0, "second": 0}
    chosen = report_of(annotated, people, score=["helpfulness", "verbosity"])
    assert chosen["human"]["annotator"] == {"first": 0, "tie": 0, "second": 2}
    with pytest.raises(UserError, match="not rated for 'helpfullness' but for helpfulness, verbosity; did you mean"):
        report_of(annotated, people, score=["helpfullness"])


# ---------------------------------------------------------------------------------------------------------- joining


def with_image(number: int, image: Image, text: str = "<image>\nWhat is it? {n}") -> Prompt:
    return Prompt.of((Turn(role="user", text=text.format(n=number), images=(image,)),))


def test_joining_by_text_and_image_name_and_everything_is_accounted_for():
    opened = [Image(path=f"coco/train/{n}.jpg", sha256=str(n) * 64) for n in range(7)]
    rows = [
        scored(with_image(n, image), ("A  café.", "No."), {"helpfulness": 3}, {"helpfulness": n % 3})
        for n, image in enumerate(opened)
    ]
    cafe = unicodedata.normalize("NFD", "A café.\n")
    people = []
    for n in range(7):
        # another tool's file: images by other paths and not opened, the placeholder elsewhere, other spacing
        unopened = Image(path=f"images/{n}.jpg", sha256=f"path:images/{n}.jpg")
        prompt = with_image(n, unopened, "What\tis  it? {n} <image>")
        people.append(judged(prompt, *completions_of(prompt, (cafe, "No.")), "first"))
    other_image = Image(path="images/3.jpg", sha256="f" * 64)  # opened, and of other bytes: another image
    p3 = with_image(3, other_image)
    people[3] = judged(p3, *completions_of(p3, (cafe, "No.")), "first")
    p4 = people[4].prompt
    people[4] = judged(p4, *completions_of(p4, (cafe, "Something else.")), "first")
    p5 = people[5].prompt
    people[5] = judged(p5, *completions_of(p5, ("No.", " No. ")), "first")
    rows[6] = replace(rows[6], annotations=())
    people[0] = judged(rows[0].prompt, *rows[0].completions, "first")  # one that is there by id
    found = report_of(rows, people)["human"]["joined"]
    assert found == {
        "pairs": 7,
        "joined": 3,
        "ways": {"by id": 1, "by text": 2},
        "missed": {
            "no such prompt": 1,
            "a completion is not there": 1,
            "not rated by the annotator": 1,
            "both texts are the same": 1,
        },
    }


def test_the_annotators_own_order_does_not_matter_to_the_direction():
    prompt = prompt_of(0)
    a, b = completions_of(prompt, ("yes", "no"))
    rated = [Rating(completion_id=c.id, scores={"helpfulness": s}) for c, s in ((b, 1), (a, 4))]
    row = Annotated(prompt=prompt, completions=(a, b), annotations=(annotation(prompt, (b, a), ratings=tuple(rated)),))
    assert report_of([row], [judged(prompt, a, b, "first")])["human"]["preferences"]["counts"]["same_winner"] == 1
    assert report_of([row], [judged(prompt, b, a, "first")])["human"]["preferences"]["counts"]["other_winner"] == 1


def test_nothing_in_common_is_said_in_words():
    annotated, _ = against_people([(*help_of(1), "first")])
    stranger = prompt_of(99)
    report = report_of(annotated, [judged(stranger, *completions_of(stranger, ("a", "b")), "first")])
    assert report["human"]["why"] == "no pair of the human file is among the annotated ones"
    assert report["human"]["joined"]["missed"]["no such prompt"] == 1
    assert report_of(annotated)["human"]["why"] == "no human preferences were given (--human FILE)"


def test_peoples_own_annotations_are_not_the_annotators():
    annotated, people = against_people([(*help_of(1), "second"), (*help_of(1), "first")])
    both = [replace(a, annotations=(*a.annotations, *p.annotations)) for a, p in zip(annotated, people, strict=True)]
    report = report_of(both, both)
    assert report["annotators"] == [{"backend": "written", "model": "out", "annotations": 2}]
    assert report["human"]["preferences"]["decided"]["value"] == 0.5
    # in a file that nobody else annotated people are the annotator
    alone = report_of(people, people)
    assert alone["annotators"] == [{"backend": "human", "model": "human", "annotations": 2}]
    assert alone["human"]["preferences"]["decided"]["value"] == 1.0
    bare = [replace(row, annotations=()) for row in people]
    with pytest.raises(UserError, match="nothing is annotated: none of its 2 prompts has an annotation"):
        report_of(bare)
    # and so with another file; one in which there are others besides is theirs alone
    assert report_of(annotated, other=people)["other"]["who"][0]["backend"] == "human"
    assert report_of(people, other=both)["other"]["who"] == [{"backend": "written", "model": "out", "annotations": 2}]


def test_scores_against_nothing_that_can_be_compared_are_no_five_empty_lines():
    ours = [scored(prompt_of(0), ("a", "b"), {"helpfulness": 1}, {"helpfulness": 0})]
    theirs = [replace(row, annotations=()) for row in ours]
    said = agreement_text(report_of(ours, other=theirs))
    assert "no completion in common is scored by both for the same attribute" in said
    assert "no pair has both verdicts" in said and "Cohen" not in said.split("another annotator")[1]


# ----------------------------------------------------------------------------------------------------- with itself


def test_repeats_in_the_same_order_and_in_another():
    rows = []
    for number in range(4):
        prompt = prompt_of(number)
        a, b = completions_of(prompt, ("yes", "no"))
        # the first shown is always the better one: the same again in the same order, reversed in the other
        passes = [((a, b), 0), ((a, b), 1), ((b, a), 2)]
        said = [annotation(prompt, shown, (3, 1), pass_index=k) for shown, k in passes]
        said = [replace(s, id=f"{s.id}{k}") for k, s in enumerate(said)]
        rows.append(Annotated(prompt=prompt, completions=(a, b), annotations=tuple(said)))
    found = report_of(rows)["itself"]
    assert found["n"] == 4
    same, other = found["same_order"], found["other_order"]
    assert (same["pairs"], same["decided"]["value"], same["kappa"]["value"]) == (4, 1.0, 1.0)
    assert (other["pairs"], other["decided"]["value"], other["kappa"]["value"]) == (8, 0.0, -1.0)
    # three pairs of passes, two of them reversed
    assert found["preferences"]["flip_rate"]["value"] == round(2 / 3, 4)


def test_one_pass_says_nothing_about_itself():
    annotated, _ = against_people([(*help_of(1), "first")])
    assert report_of(annotated)["itself"]["why"].startswith("every prompt has one pass")


# ------------------------------------------------------------------------------------------- with another annotator


def test_two_annotators_on_the_same_completions():
    marks = [(4, 3, 1), (2, 2, 0), (0, 4, 1), (3, 1, 1)]
    others = [(4, 2, 1), (2, 3, 0), (0, 4, 2), (1, 3, 1)]
    ours, theirs = [], []
    for number, (x, y) in enumerate(zip(marks, others, strict=True)):
        prompt = prompt_of(number)
        texts = ("red", "green", "blue")
        ours.append(scored(prompt, texts, *({"helpfulness": m, "candour": 1} for m in x)))
        row = scored(prompt, texts, *({"helpfulness": m} for m in y), model="other")
        if number == 3:  # sampled by another model: other ids, the same texts but one
            completions = tuple(
                Completion.of(prompt_id=prompt.id, model="m2", index=i, text=t)
                for i, t in enumerate(("blue", "red ", "violet"))
            )
            ratings = tuple(
                Rating(completion_id=c.id, scores={"helpfulness": m})
                for c, m in zip(completions, (y[2], y[0], 4), strict=True)
            )
            said = annotation(prompt, completions, ratings=ratings, model="other")
            row = Annotated(prompt=prompt, completions=completions, annotations=(said,))
        theirs.append(row)
    ours.append(scored(prompt_of(50), ("a", "b"), {"helpfulness": 1}, {"helpfulness": 1}))
    found = report_of(ours, other=theirs)["other"]
    assert found["joined"] == {
        "prompts": 5, "their_prompts": 4, "joined": 4, "ways": {"by id": 3, "by text": 1}, "missed": 1,
        "completions": {"joined": 11, "missed": 1},
    }  # fmt: skip
    assert found["who"] == [{"backend": "written", "model": "other", "annotations": 4}]
    x = [4, 3, 1, 2, 2, 0, 0, 4, 1, 3, 1]
    y = [4, 2, 1, 2, 3, 0, 0, 4, 2, 1, 1]  # "red" and "blue" of the last prompt by their texts
    assert set(found["measures"]) == {"helpfulness", "preference score"}
    kappa = found["measures"]["helpfulness"]["kappa"]
    assert kappa["value"] == round(cohen_kappa_score(x, y, weights="quadratic", labels=[0, 1, 2, 3, 4]), 4)
    assert found["measures"]["helpfulness"]["mean_absolute_difference"]["value"] == round(5 / 11, 4)
    # pairs: 3 + 3 + 3 + 1; signs by hand, prompt by prompt (red-green, red-blue, green-blue)
    #   ours  + + + | 0 + + | - - + | +
    #   theirs + + + | - + + | - - + | 0
    assert found["preferences"]["pairs"] == 10
    assert sum(found["preferences"]["counts"].values()) == 10
    assert found["preferences"]["counts"]["same_winner"] == 8
    assert found["preferences"]["half"]["value"] == 0.9


def test_annotators_with_no_attribute_in_common_still_prefer():
    ours = [scored(prompt_of(0), ("a", "b"), {"helpfulness": 1}, {"helpfulness": 0})]
    theirs = [scored(prompt_of(0), ("a", "b"), {"merit": 2}, {"merit": 9})]
    report = report_of(ours, other=theirs)
    assert report["other"]["measures"].keys() == {"preference score"}
    assert report["other"]["preferences"]["counts"]["other_winner"] == 1


# ------------------------------------------------------------------------------------------------- order, and the page


def everything(seed: int) -> tuple[list[Annotated], list[Annotated], list[Annotated]]:
    dice = random.Random(seed)
    annotated, people, others = [], [], []
    for number in range(12):
        prompt = prompt_of(number)
        completions = completions_of(prompt, ("a", "b", "c"))
        for rows, passes in ((annotated, 3), (others, 1)):
            said = []
            for k in range(passes):
                shown = dice.sample(completions, 3)
                ratings = tuple(
                    Rating(completion_id=c.id, scores={n: dice.randint(0, 4) for n in ATTRIBUTES}) for c in shown
                )
                said.append(annotation(prompt, shown, ratings=ratings, pass_index=k))
            rows.append(Annotated(prompt=prompt, completions=completions, annotations=tuple(said)))
        for n in range(dice.randint(1, 2)):
            pair = dice.sample(completions, 2)
            people.append(judged(prompt, *pair, dice.choice(["first", "second", "tie"]), n))
    return annotated, people, others


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_nothing_matters(seed):
    annotated, people, others = everything(seed)
    one = report_of(annotated, people, others)
    dice = random.Random(seed)
    shuffled = [
        replace(
            row,
            completions=tuple(dice.sample(row.completions, len(row.completions))),
            annotations=tuple(dice.sample(row.annotations, len(row.annotations))),
        )
        for row in dice.sample(annotated, len(annotated))
    ]
    again = report_of(shuffled, dice.sample(people, len(people)), dice.sample(others, len(others)))
    assert json.dumps(one) == json.dumps(again)


def test_the_heat_map_is_scipys_on_a_larger_table():
    annotated, people, _ = everything(3)
    report = report_of(annotated, people)
    opinions = [o for o in opinions_in(people) if o.preferred]
    mirrored = report["human"]["both_ways"]
    by_prompt = {row.prompt.id: row.scores() for row in annotated}
    x = [
        by_prompt[o.prompt.id][o.first.id]["coherence"] - by_prompt[o.prompt.id][o.second.id]["coherence"]
        for o in opinions
    ]
    y = [o.preferred for o in opinions]
    if mirrored:
        x, y = x + [-v for v in x], y + [-v for v in y]
    assert cell(report, "coherence")["value"] == pytest.approx(float(pearsonr(x, y)[0]), abs=1e-4)
    assert cell(report, "coherence")["low"] < cell(report, "coherence")["value"] < cell(report, "coherence")["high"]


def test_the_page_escapes_what_others_wrote(tmp_path):
    evil = "<script>alert(1)</script>"
    annotated, people = against_people([({evil: 1}, {evil: 0}, "first"), ({evil: 0}, {evil: 2}, "second")])
    annotated = [replace(a, annotations=(replace(a.annotations[0], model=f"{evil}\x1b[2J"),)) for a in annotated]
    report = report_of(annotated, people, annotated)
    page = agreement_page(report)
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Content-Security-Policy" in page and "http" not in page.split("<body>")[1]
    assert "\x1b" not in agreement_text(report)


# ------------------------------------------------------------------------------------------------------ the command


def written(folder: Path) -> tuple[Path, Path]:
    """An annotated file with opened images, and LLaVA-RLHF's own JSON about the same questions."""
    rows, people = [], []
    for n, (ours, theirs) in enumerate([(2, 1), (1, 1), (-1, 2), (-2, 1), (0, 2)]):
        prompt = with_image(n, Image(path=f"train/{n}.jpg", sha256=f"{n}" * 64))
        rows.append(scored(prompt, ("Yes.", "No."), *help_of(ours)))
        question = {"from": "human", "value": f"<image>\nWhat is it? {n}"}
        people.append(
            {
                "id": str(n), "image": f"{n}.jpg", "conversations": [question, {"from": "gpt", "value": ""}],
                "output_1": {"from": "llava", "value": "Yes."}, "output_2": {"from": "llava", "value": "No."},
                "preference": theirs,
            }
        )  # fmt: skip
    write_records(folder / "annotated.jsonl", rows)
    (folder / "human.json").write_text(json.dumps(people))
    return folder / "annotated.jsonl", folder / "human.json"


def test_the_command_writes_json_and_page_and_tells_the_heat_map(tmp_path, capsys):
    annotated, human = written(tmp_path)
    assert main(["agreement", str(annotated), "--human", str(human), "--with", str(annotated)]) == 0
    told = capsys.readouterr().out
    assert "people: 5 of 5 pairs joined (5 by text)" in told
    assert "first response − second; people: +1 the first, −1 the second" in told
    # differences 2, 1, -1, -2, 0; people 1, 1, -1, 1, -1: sum dh = 2 + 1 + 1 - 2 = 2, of sqrt(10 * 4.8)
    r = 2 / math.sqrt(48)
    assert f"human preference ~ helpfulness       {r:+.3f} [" in told
    out = tmp_path / "annotated.jsonl.agreement"
    report = json.loads((out / "agreement.json").read_text())
    assert cell(report, "helpfulness")["value"] == round(r, 4)
    assert (out / "agreement.html").read_text().startswith("<!doctype html>")
    assert {file.name for file in out.iterdir()} == {"agreement.json", "agreement.html"}
    assert report["files"] == ["annotated.jsonl", "human.json", "annotated.jsonl"]
    called = "align agreement annotated.jsonl --human human.json --with annotated.jsonl"
    assert report["command"] == called
    page = (out / "agreement.html").read_text()
    assert f"<code>{called}</code>" in page and "<title>agreement, annotated.jsonl" in page
    assert str(tmp_path) not in page


def test_the_command_for_machines_and_another_folder(tmp_path, capsys):
    annotated, human = written(tmp_path)
    out = tmp_path / "here" / "there"
    assert main(["agreement", str(annotated), "--human", str(human), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["out"] == str(out) and told["report"]["schema"] == "agreement/1"


def rows_of(folder: Path) -> tuple[Path, Path]:
    """The same questions and answers, rated by GPT-4 (UltraFeedback) and by people (HelpSteer)."""
    ultra, people = [], []
    for n, (ours, theirs) in enumerate([((5, 2), (4, 1)), ((3, 4), (1, 3)), ((4, 2), (0, 2))]):
        rating = ("helpfulness", "honesty", "instruction_following", "truthfulness")
        completions = [
            {"model": f"m{k}", "response": text,
             "annotations": {name: {"Rating": str(mark), "Rationale": "So."} for name in rating}}
            for k, (text, mark) in enumerate(zip(("Yes.", "No."), ours, strict=True))
        ]  # fmt: skip
        ultra.append({"source": "s", "instruction": f"Is it {n}?", "models": ["m0", "m1"], "completions": completions})
        for text, mark in zip(("Yes.", "No."), theirs, strict=True):
            more = dict.fromkeys(("correctness", "coherence", "complexity", "verbosity"), 1)
            people.append({"prompt": f"Is it {n}?", "response": text, "helpfulness": mark, **more})
    for name, rows in (("uf", ultra), ("helpsteer", people)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "uf.jsonl", folder / "helpsteer.jsonl"


def test_people_who_rate_are_an_annotator_too(tmp_path, capsys):
    ultra, people = map(str, rows_of(tmp_path))
    assert main(["agreement", ultra, "--with", people, "--score", "helpfulness"]) == 0
    found = json.loads((tmp_path / "uf.jsonl.agreement" / "agreement.json").read_text())["other"]
    assert found["who"] == [{"backend": "human", "model": "human", "annotations": 3}]
    assert found["preferences"]["decided"]["value"] == round(2 / 3, 4)
    assert "helpfulness" in found["measures"]
    assert main(["agreement", people, "--with", ultra, "--score", "helpfulness"]) == 0
    turned = json.loads((tmp_path / "helpsteer.jsonl.agreement" / "agreement.json").read_text())
    assert turned["annotators"] == [{"backend": "human", "model": "human", "annotations": 3}]
    assert turned["other"]["preferences"]["decided"]["value"] == round(2 / 3, 4)


@pytest.mark.parametrize("option", ["--human", "--with"])
def test_a_file_of_other_prompts_is_a_mistake(tmp_path, capsys, option):
    annotated, _ = written(tmp_path)
    if option == "--human":
        stranger = prompt_of(99)
        write_records(tmp_path / "far.jsonl", [judged(stranger, *completions_of(stranger, ("a", "b")), "first")])
    else:
        rows_of(tmp_path)[1].rename(tmp_path / "far.jsonl")
    assert main(["agreement", str(annotated), option, str(tmp_path / "far.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "far.jsonl: has nothing in common with" in said and "of the same prompts" in said
    assert not (tmp_path / "annotated.jsonl.agreement").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{annotated}", "--score", "helpfull"], "did you mean 'helpfulness'?"),
        (["{annotated}", "--human", "{prompts}"], "no preference in it"),
        (["{pairs}"], "holds preference pairs; expected annotated prompts"),
        (["{annotated}", "--with", "{pairs}"], "holds preference pairs; expected annotated prompts"),
        (["{annotated}", "--human", "{gone}"], "gone.json: cannot be read"),
        (["{annotated}", "--out", "{human}"], "--out: reports cannot be written to"),
        (["{gone}", "--out", "{human}"], "--out: reports cannot be written to"),
        (["{annotated}", "--out", "/proc/nope"], "--out: reports cannot be written to /proc/nope"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(tmp_path, capsys, arguments, message):
    annotated, human = written(tmp_path)
    row = against_people([(*help_of(1), "first")])[0][0]
    pair = PreferencePair.of(
        prompt=row.prompt, chosen=row.completions[0], rejected=row.completions[1], margin=None, rule="x"
    )
    write_records(tmp_path / "pairs.jsonl", [pair])
    write_records(tmp_path / "prompts.jsonl", [row.prompt])
    names = {"annotated": annotated, "human": human, "gone": tmp_path / "gone.json"}
    names |= {"pairs": tmp_path / "pairs.jsonl", "prompts": tmp_path / "prompts.jsonl"}
    before = set(tmp_path.iterdir())
    assert main(["agreement", *(a.format(**names) for a in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before
