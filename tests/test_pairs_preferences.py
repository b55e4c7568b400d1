"""Pairs from annotations that only compare, a human's for instance."""

from typing import Literal

from pair_groups import annotated

from align.pairs import (
    Pairs,
    build_hindsight_examples,
    build_preference_pairs,
    build_rejection_examples,
    build_steerlm_examples,
)
from align.pairs.sets import Maker
from annotate.records import Annotated, Annotation, Failure, Reason, replace

HUMAN = Pairs(basis="preferences")
Verdict = tuple[int, int, Literal["first", "second", "tie"]]


def compared(texts: list[str], *verdicts: Verdict) -> Annotated:
    """Answers, and who was shown first, who second, and what the human said."""
    row = annotated("Which is better?", [(text, None) for text in texts])
    annotations = tuple(
        Annotation(
            id=f"h{number}", prompt_id=row.prompt.id, mode="pairwise", pass_index=number,
            shown_order=(row.completions[first].id, row.completions[second].id), ratings=(), preference=said,
            backend="human", model="", rubric="preference", rubric_sha256="", request_sha256="",
        )
        for number, (first, second, said) in enumerate(verdicts)
    )  # fmt: skip
    return replace(row, annotations=annotations)


def made(row: Annotated, **options: object) -> list[tuple[str, str]] | tuple[Reason, str]:
    found = list(build_preference_pairs([row], replace(HUMAN, **options), seed=0))
    if isinstance(found[0], Failure):
        return found[0].reason, found[0].detail
    return [(pair.chosen.text, pair.rejected.text) for pair in found]


def test_what_was_preferred_is_chosen_whatever_was_shown_first():
    assert made(compared(["a", "b"], (0, 1, "first"))) == [("a", "b")]
    assert made(compared(["a", "b"], (1, 0, "first"))) == [("b", "a")]
    assert made(compared(["a", "b"], (1, 0, "second"))) == [("a", "b")]


def test_no_margin_is_known_and_no_score():
    (pair,) = build_preference_pairs([compared(["a", "b"], (0, 1, "second"))], HUMAN, seed=0)
    assert (pair.margin, pair.meta, pair.rule, pair.evidence) == (None, {}, "basis=preferences", ("h0",))


def test_the_majority_of_several_verdicts():
    assert made(compared(["a", "b"], (0, 1, "first"), (1, 0, "first"), (1, 0, "second"))) == [("a", "b")]
    assert made(compared(["a", "b"], (0, 1, "first"), (1, 0, "tie"))) == [("a", "b")]
    undecided = (Reason.TIED, "no completion was preferred more often than another")
    assert made(compared(["a", "b"], (0, 1, "first"), (1, 0, "first"))) == undecided
    assert made(compared(["a", "b"], (0, 1, "tie"))) == undecided


def test_each_two_that_were_compared_make_a_pair_resting_on_their_own_verdicts():
    row = compared(["a", "b", "c"], (0, 1, "first"), (1, 2, "first"), (2, 0, "tie"))
    pairs = list(build_preference_pairs([row], HUMAN, seed=0))
    assert [(p.chosen.text, p.rejected.text, p.evidence) for p in pairs] == [("a", "b", ("h0",)), ("b", "c", ("h1",))]
    assert len(made(row, max_pairs=1)) == 1


def test_why_there_is_no_pair():
    assert made(compared(["a"])) == (Reason.COMPLETIONS_MISSING, "1 completion(s)")
    assert made(compared(["a", "b"])) == (Reason.UNRATED, "0 of 2 completions are compared")
    assert made(compared(["a", ""], (0, 1, "first"))) == (Reason.COMPLETION_EMPTY, "1 of 2 completions are empty")
    # a and c have a text, but each was compared with the empty one alone
    row = compared(["a", "", "c"], (0, 1, "first"), (2, 1, "first"))
    assert made(row) == (Reason.UNRATED, "no two completions with a text were compared")
    same = compared(["a", " a"], (0, 1, "first"))
    assert made(same) == (Reason.IDENTICAL, "the completions that were compared say the same")
    lengths = compared(["a", "a long one"], (0, 1, "first"))
    assert made(lengths, max_length_ratio=2)[0] == Reason.FILTERED
    assert made(lengths, fraction=1e-9)[0] == Reason.FILTERED


def test_sets_that_need_scores_say_so_and_hindsight_does_not():
    row = compared(["a", "b"], (0, 1, "first"))
    for build in (build_steerlm_examples, build_rejection_examples):
        (failure,) = build([row], HUMAN, seed=0)
        assert (failure.reason, failure.detail) == (
            Reason.UNRATED,
            "basis is preferences: no completion has a score",
        )
    (example,) = build_hindsight_examples([row], HUMAN, seed=0)
    assert (example.prompt.turns[1].text, example.completion) == ("b", "a")
    assert Maker(HUMAN, seed=0)(row).widest is None


def test_the_order_of_annotations_and_completions_does_not_matter():
    row = compared(["a", "b", "c"], (0, 1, "first"), (2, 1, "first"), (2, 0, "second"))
    other = replace(row, completions=row.completions[::-1], annotations=row.annotations[::-1])
    one, again = (list(build_preference_pairs([r], HUMAN, seed=0)) for r in (row, other))
    assert one == again and len(one) == 3
