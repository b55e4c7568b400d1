"""From scores to training sets: groups small enough to be worked out by hand, and what must hold for any."""

import json
import subprocess
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.console import Console
from align.pairs import (
    Pairs,
    build_preference_pairs,
    build_rejection_examples,
    build_steerlm_examples,
    build_teacher_examples,
    conditioning,
)
from align.pairs.build import build_files
from align.pairs.stage import PairsWork
from align.pairs.stage import work as stage_work
from align.recipe import load_recipe
from align.runner import Runner
from align.stages import STAGES
from annotate.errors import UserError
from annotate.jsonl import read_records, write_records
from annotate.records import (
    Annotated,
    Annotation,
    Completion,
    Example,
    Failure,
    Image,
    PreferencePair,
    Prompt,
    Rating,
    Reason,
    Turn,
    replace,
)
from annotate.rubric import load_rubric

HELPSTEER = load_rubric("helpsteer")[0]
NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
Scores = tuple[int, int, int, int, int]


def annotated(
    question: str,
    answers: list[tuple[str, Scores | None]],
    *,
    source: str = "digits",
    more_passes: list[list[Scores]] = [],  # noqa: B006
) -> Annotated:
    """A prompt whose answers have the given helpfulness, correctness, coherence, complexity, verbosity."""
    prompt = Prompt.of((Turn(role="user", text=question),), source=source)
    completions = [
        Completion.of(prompt_id=prompt.id, model="tiny", index=i, text=text) for i, (text, _) in enumerate(answers)
    ]
    annotations = []
    for number, scores in enumerate([[s for _, s in answers], *more_passes]):
        ratings = tuple(
            Rating(completion_id=c.id, scores=dict(zip(NAMES, s, strict=True)))
            for c, s in zip(completions, scores, strict=True)
            if s is not None
        )
        annotations.append(
            Annotation(
                id=f"{prompt.id}-{number}",
                prompt_id=prompt.id,
                mode="listwise",
                pass_index=number,
                shown_order=tuple(r.completion_id for r in ratings),
                ratings=ratings,
                backend="rules",
                model="rules",
                rubric="helpsteer",
                rubric_sha256=HELPSTEER.sha256,
                request_sha256="0" * 64,
            )
        )
    return Annotated(prompt=prompt, completions=tuple(completions), annotations=tuple(annotations))


# The group of the module docstring of preference.py; score = the first three numbers.
A = ("It is a red 7.", (4, 4, 3, 1, 1))  # 11
B = ("A red 7.", (4, 3, 4, 1, 1))  # 11
C = ("A 7.", (3, 3, 3, 1, 0))  # 9: worse than the best by exactly the margin
D = ("A cat.", (1, 0, 3, 4, 4))  # 4
CLOSE = ("A red seven.", (4, 3, 3, 4, 4))  # 10: within the margin


def texts(made: list) -> list[tuple[str, str, float]]:
    return [(p.chosen.text, p.rejected.text, p.margin) for p in made]


def pairs(row: Annotated, seed: int = 0, **options: object) -> list:
    return list(build_preference_pairs([row], Pairs(**options), seed=seed))


# ---------------------------------------------------------------------------------------------------- preference


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


# ------------------------------------------------------------------------------------- SteerLM, rejection, teacher


def test_steerlm_appends_the_scores_to_the_last_question():
    image = Image(path="a.png", sha256="ab" * 32)
    row = annotated("?", [A, C])
    before = (
        Turn(role="user", text="<image>\nWhat is it?", images=(image,)),
        Turn(role="assistant", text="A digit."),
        Turn(role="user", text="Which one?"),
    )
    prompt = Prompt.of(before, source="digits", source_id="p1")
    row = Annotated(
        prompt=prompt,
        completions=tuple(replace(c, prompt_id=prompt.id) for c in row.completions),
        annotations=tuple(replace(a, prompt_id=prompt.id) for a in row.annotations),
    )
    first, second = build_steerlm_examples([row], Pairs(), seed=0)
    assert first.prompt.turns[:2] == before[:2]
    assert first.prompt.turns[2].text == (
        "Which one?\nPlease answer the question such that your response is in the following attributes in 5-point "
        "Likert scale:\nHelpfulness:4,Correctness:4,Coherence:3,Complexity:1,Verbosity:1"
    )
    assert (first.completion, first.source) == ("It is a red 7.", "steerlm")
    assert (first.prompt.source, first.prompt.source_id) == ("digits", "p1")
    assert first.meta == {"prompt_id": prompt.id, "completion_id": row.completions[0].id, "score": 11.0}
    assert second.prompt.turns[2].text.endswith("Helpfulness:3,Correctness:3,Coherence:3,Complexity:1,Verbosity:0")


def test_steerlm_trains_on_all_rated_answers_or_on_the_best():
    row = annotated("?", [A, C, ("Not rated.", None), ("", D[1]), A, D])
    assert [e.completion for e in build_steerlm_examples([row], Pairs(), seed=0)] == [A[0], C[0], D[0]]
    assert [e.completion for e in build_steerlm_examples([row], Pairs(steerlm="best"), seed=0)] == [A[0]]


def test_means_are_rounded_half_up():
    # 2 and 3 -> 2.5 -> 3; 0 and 1 -> 0.5 -> 1 (Python's round would give 2 and 0)
    row = annotated("?", [("yes", (2, 0, 4, 4, 4))], more_passes=[[(3, 1, 4, 4, 4)]])
    (example,) = build_steerlm_examples([row], Pairs(steerlm_template=" [{attributes}]"), seed=0)
    assert example.prompt.turns[0].text == "? [Helpfulness:3,Correctness:1,Coherence:4,Complexity:4,Verbosity:4]"


def test_conditioning_asks_for_whatever_it_is_given_in_the_papers_order():
    settings = Pairs(steerlm_template="{attributes}")
    highest = {name: scale.high for name, scale in HELPSTEER.attributes.items()}
    assert conditioning(highest, settings) == "Helpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"
    assert conditioning({"visual_faithfulness": 5, "ethics": 1, "correctness": 2}, settings) == (
        "Correctness:2,Ethics:1,Visual faithfulness:5"
    )


def test_rejection_keeps_the_best_of_each_prompt():
    row = annotated("?", [C, A, D])
    (example,) = build_rejection_examples([row], Pairs(), seed=0)
    assert (example.prompt, example.completion, example.source) == (row.prompt, A[0], "rejection")
    assert example.meta == {"completion_id": row.completions[1].id, "score": 11.0}
    assert list(build_rejection_examples([row], Pairs(min_score=11), seed=0)) == [example]
    (failure,) = build_rejection_examples([row], Pairs(min_score=12), seed=0)
    assert (failure.reason, failure.detail) == (Reason.FILTERED, "best score 11, wanted 12")


def test_of_two_best_rejection_takes_the_one_that_dpo_prefers():
    rows = [annotated(f"Question {i}?", [A, B, D]) for i in range(20)]
    kept = [e.completion for e in build_rejection_examples(rows, Pairs(), seed=5)]
    assert kept == [p.chosen.text for p in build_preference_pairs(rows, Pairs(), seed=5)]
    assert set(kept) == {A[0], B[0]}


def test_teacher_examples_follow_the_prompts_and_account_for_each():
    prompts = [Prompt.of((Turn(role="user", text=text),)) for text in ("one?", "two?", "three?")]
    one, three = prompts[0].id, prompts[2].id
    answers = [
        Completion.of(prompt_id=three, model="teacher-1", index=0, text=" "),
        Completion.of(prompt_id=one, model="teacher-1", index=1, text="Second."),
        Completion.of(prompt_id=one, model="teacher-1", index=0, text="First."),
    ]
    first, second, third = build_teacher_examples(prompts, answers)
    assert (first.prompt.id, first.completion, first.source) == (one, "First.", "teacher")
    assert first.meta == {"completion_id": answers[2].id, "model": "teacher-1"}
    assert (second.record_id, second.reason) == (prompts[1].id, Reason.COMPLETIONS_MISSING)
    assert (third.record_id, third.reason) == (three, Reason.COMPLETION_EMPTY)


# ------------------------------------------------------------------------------------------- what holds for any group

score = st.integers(0, 4)
answer = st.tuples(st.sampled_from(["", " ", "a", "b", "c", "d"]), st.none() | st.tuples(*[score] * 5))
groups = st.lists(st.lists(answer, min_size=1, max_size=5), min_size=1, max_size=6).map(
    lambda drawn: [annotated(f"Question {i}?", g, source=f"s{i % 2}") for i, g in enumerate(drawn)]
)
options = st.builds(
    Pairs,
    ties=st.sampled_from(["random", "skip"]),
    rejected=st.sampled_from(["random_below_margin", "worst", "all_below_margin"]),
    min_margin=st.sampled_from([0.0, 1.0, 2.0, 5.0]),
    fraction=st.sampled_from([0.5, 1.0]),
    steerlm=st.sampled_from(["all", "best"]),
)


@given(groups, options, st.integers(0, 5))
def test_every_pair_respects_the_margin_and_can_be_traced(rows, settings, seed):
    by_id = {row.prompt.id: row for row in rows}
    for made in build_preference_pairs(rows, settings, seed=seed):
        if isinstance(made, Failure):
            continue
        row = by_id[made.prompt.id]
        total = {c: sum(s[name] for name in settings.score) for c, s in row.scores().items()}
        assert total[made.chosen.id] == max(total[c.id] for c in row.completions if c.id in total and c.text.strip())
        assert total[made.chosen.id] - total[made.rejected.id] == made.margin >= settings.min_margin
        assert made.margin > 0
        assert made.chosen in row.completions and made.rejected in row.completions
        assert made.chosen.text.strip() != made.rejected.text.strip() != ""
        assert made.evidence == tuple(a.id for a in row.annotations)


@given(groups, options, st.randoms(use_true_random=False))
def test_neither_the_order_of_prompts_nor_of_completions_matters(rows, settings, random):
    shuffled = [replace(r, completions=tuple(random.sample(r.completions, len(r.completions)))) for r in rows]
    random.shuffle(shuffled)
    for build in (build_preference_pairs, build_steerlm_examples, build_rejection_examples):
        one, other = (sorted(json.dumps(m.to_json()) for m in build(r, settings, seed=1)) for r in (rows, shuffled))
        assert one == other


@given(groups, options)
def test_each_prompt_gives_adjacent_pairs_or_one_failure_and_the_funnel_adds_up(rows, settings):
    made = list(build_preference_pairs(rows, settings, seed=0))
    owners = [m.record_id if isinstance(m, Failure) else m.prompt.id for m in made]
    assert [prompt_id for prompt_id, _ in groupby(owners)] == [row.prompt.id for row in rows]

    compiled = work(rows, settings).compile({}, Path())
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


# ----------------------------------------------------------------------------------------------- the stage, the files


def work(rows: list[Annotated], settings: Pairs, *, needs_pairs: bool = True) -> PairsWork:
    prompts = Counter(row.prompt.source for row in rows) + Counter(digits=1)  # one digit was sampled in vain
    return PairsWork(rows=rows, prompts=prompts, settings=settings, rubric=HELPSTEER, seed=0, needs_pairs=needs_pairs)


HAND = [
    annotated("1?", [A, D], source="digits"),  # a pair, 7 apart
    annotated("2?", [A, CLOSE], source="digits"),  # 1 apart
    annotated("3?", [A, ("", D[1])], source="digits"),  # nothing to compare with
    annotated("4?", [A, B, C], source="charts"),  # a tie at 11, 2 apart
]


def test_the_funnel_of_four_prompts_by_hand(tmp_path):
    compiled = work(HAND, Pairs(ties="skip")).compile({}, tmp_path)
    assert compiled.files["funnel.json"] == {
        "total": {"prompts": 5, "annotated": 4, "rated": 3, "margin": 2, "kept": 1},
        "sources": {
            "charts": {"prompts": 1, "annotated": 1, "rated": 1, "margin": 1, "kept": 0},
            "digits": {"prompts": 4, "annotated": 3, "rated": 2, "margin": 1, "kept": 1},
        },
        "failures": {"completion_empty": 1, "no_margin": 1, "tied": 1},
        "widest_difference": {"1": 1, "2": 1, "7": 1},
        "sets": {
            "preference": {"rows": 1, "prompts": 1, "failures": {"completion_empty": 1, "no_margin": 1, "tied": 1}},
            # 2 + 2 + 1 + 3 answers that hold text
            "steerlm": {"rows": 8, "prompts": 4, "failures": {}},
            "rejection": {"rows": 4, "prompts": 4, "failures": {}},
        },
    }
    assert compiled.funnel == {"prompts": 5, "annotated": 4, "rated": 3, "margin": 2, "kept": 1, "pairs": 1}
    assert compiled.files["conditioning.json"]["text"].endswith(
        "\nHelpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"
    )


def test_the_stage_is_one_unit_whose_key_hashes_what_matters(tmp_path):
    settings = Pairs()
    (unit,) = work(HAND, settings).units
    assert unit.key == work(list(HAND), settings).units[0].key
    others = [
        work(HAND[:3], settings),
        work(HAND, Pairs(min_margin=3)),
        replace(work(HAND, settings), seed=1),
        replace(work(HAND, settings), rubric=replace(HELPSTEER, sha256="f" * 64)),
    ]
    assert len({unit.key, *(w.units[0].key for w in others)}) == 5
    finished = []
    work(HAND, settings).execute([unit], lambda key, line: finished.append((key, line)), tmp_path, print)
    assert finished == [(unit.key, {"pairs": 2})]


def test_no_pair_above_the_margin_stops_before_anything_is_written(tmp_path):
    apart = work(HAND, Pairs(min_margin=8))
    with pytest.raises(UserError) as caught:
        apart.execute(apart.units, lambda *_: pytest.fail("must not finish"), tmp_path, print)
    assert str(caught.value) == (
        "no pair above the margin: pairs.min_margin is 8, and none of 4 annotated prompt(s) gave a pair "
        "(1 completion_empty, 3 no_margin). Points between the best and the worst completion of a prompt: "
        "1: 1, 2: 1, 7: 1 (points: prompts). Lower pairs.min_margin, or sample completions that differ more"
    )
    # without dpo the other sets are still wanted
    finished = []
    work(HAND, Pairs(min_margin=8), needs_pairs=False).execute(
        apart.units, lambda key, line: finished.append(line), tmp_path, print
    )
    assert finished == [{"pairs": 0}]


def test_annotations_that_only_compare_give_no_scores(tmp_path):
    row = annotated("?", [A, D])
    (rated,) = row.annotations
    compared = replace(row, annotations=(replace(rated, mode="pairwise", preference="first", ratings=()),))
    write_records(tmp_path / "annotated.jsonl", [compared])
    with pytest.raises(UserError, match=r"pairwise ones only compare. Annotate with mode listwise or pointwise"):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)
    (tmp_path / "annotated.jsonl").write_text("")
    with pytest.raises(UserError, match="not one prompt was annotated"):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)


def test_files_from_a_bare_annotation_file(tmp_path):
    write_records(tmp_path / "annotated.jsonl", HAND)
    out = tmp_path / "new" / "out"
    funnel = build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0)
    assert sorted(p.name for p in out.iterdir()) == [
        "card.md",
        "conditioning.json",
        "failures.jsonl",
        "funnel.json",
        "preference.jsonl",
        "rejection.jsonl",
        "steerlm.jsonl",
    ]
    assert [p.name for p in out.parent.iterdir()] == ["out"]  # no leftovers
    assert funnel["total"] == {"annotated": 4, "rated": 3, "margin": 2, "kept": 2}
    assert json.loads((out / "funnel.json").read_text()) == funnel
    assert "| all | 4 | 3 | 2 | 2 |" in (out / "card.md").read_text()
    # the very records that the builders and the stage make
    compiled = work(HAND, Pairs()).compile({}, tmp_path)
    for name, kind in [("preference", PreferencePair), ("steerlm", Example), ("rejection", Example)]:
        assert list(read_records(out / f"{name}.jsonl", kind)) == compiled.files[f"{name}.jsonl"]
    assert list(read_records(out / "failures.jsonl", Failure)) == compiled.files["failures.jsonl"]
    assert json.loads((out / "conditioning.json").read_text()) == compiled.files["conditioning.json"]


def test_files_are_written_all_or_none(tmp_path):
    source, out = tmp_path / "annotated.jsonl", tmp_path / "out"
    write_records(source, HAND)
    build_files(source, out, Pairs(), 0)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    write_records(tmp_path / "hand.jsonl", HAND)

    with pytest.raises(UserError, match="no pair above the margin"):
        build_files(source, out, Pairs(min_margin=9), 0)
    write_records(source, [HAND[0], HAND[1], HAND[0]])
    with pytest.raises(UserError, match=r"annotated.jsonl:3: prompt \w+ is there twice"):
        build_files(source, out, Pairs(), 0)
    source.write_text(source.read_text()[:-40])
    with pytest.raises(UserError, match=r"annotated.jsonl:3: not a line of JSON"):
        build_files(source, out, Pairs(), 0)
    with pytest.raises(UserError, match=r"nowhere.jsonl: cannot be read"):
        build_files(tmp_path / "nowhere.jsonl", out, Pairs(), 0)
    with pytest.raises(UserError, match="is a file; give a folder"):
        build_files(source, source, Pairs(), 0)
    with pytest.raises(UserError, match="no pair above the margin"):
        build_files(tmp_path / "hand.jsonl", tmp_path / "deep" / "new", Pairs(min_margin=9), 0)

    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotated.jsonl", "hand.jsonl", "out"]


def test_scores_of_two_rubrics_are_not_mixed(tmp_path):
    other = replace(HAND[1], annotations=tuple(replace(a, rubric_sha256="f" * 64) for a in HAND[1].annotations))
    write_records(tmp_path / "annotated.jsonl", [HAND[0], other])
    with pytest.raises(UserError, match=r"annotated by 2 rubrics \(helpsteer \(\w{8}\), helpsteer \(ffffffff\)\)"):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "out", Pairs(), 0)


def test_an_unknown_rubric_leaves_the_conditioning_out(tmp_path):
    """Its highest scores are not in the annotations; guessing them from what was given would be a default score."""
    row = replace(HAND[0], annotations=tuple(replace(a, rubric_sha256="f" * 64) for a in HAND[0].annotations))
    write_records(tmp_path / "annotated.jsonl", [row])
    out = tmp_path / "out"
    build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0, rubric="helpsteer")
    assert (out / "conditioning.json").exists()
    build_files(tmp_path / "annotated.jsonl", out, Pairs(), 0)
    assert not (out / "conditioning.json").exists()


def test_importing_the_builders_does_not_import_torch():
    code = "import sys, annotate, align.pairs; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "align" in loaded and not {"torch", "transformers", "trl", "numpy", "PIL"} & set(loaded)


def test_a_recipe_hands_the_stage_its_annotations_and_prompts(tmp_path):
    asked = Prompt.of((Turn(role="user", text="never annotated?"),), source="charts")
    write_records(tmp_path / "prompts.jsonl", [*(row.prompt for row in HAND), asked])
    (tmp_path / "mine.yaml").write_text(
        f"seed: 7\n"
        f"runs: {tmp_path}/runs\n"
        f"model: {tmp_path}/model\n"
        f"prompts: {{file: {tmp_path}/prompts.jsonl}}\n"
        f"sample: {{}}\n"
        f"annotate: {{}}\n"
        f"pairs: {{min_margin: 3}}\n"
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    (recipe.folder / "annotate").mkdir(parents=True)
    write_records(recipe.folder / "annotate" / "annotated.jsonl", HAND)
    made = stage_work(Runner(recipe, Console()).context(STAGES["pairs"]))
    assert made == PairsWork(
        rows=tuple(HAND),
        prompts={"charts": 2, "digits": 3},
        settings=Pairs(min_margin=3),
        rubric=HELPSTEER,
        seed=7,
        needs_pairs=False,
    )


def test_a_folder_that_cannot_be_written(tmp_path):
    write_records(tmp_path / "annotated.jsonl", HAND)
    with pytest.raises(UserError, match=r"annotated.jsonl/out: cannot be written \("):
        build_files(tmp_path / "annotated.jsonl", tmp_path / "annotated.jsonl" / "out", Pairs(), 0)
