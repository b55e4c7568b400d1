"""As long chosen as rejected, over the whole set: the bound found by hand, and pairs kept by it."""

import pytest
from pair_groups import annotated

from align.pairs import Pairs, build_preference_pairs
from align.pairs.lengths import Gaps, balanced, gap
from annotate.errors import UserError
from annotate.records import Annotated, Failure, Reason

GOOD, BAD = (4, 4, 4, 2, 2), (1, 1, 1, 2, 2)


def rows(*gaps: int) -> list[Annotated]:
    """A prompt for each gap: chosen is so many characters longer than rejected, which has 50."""
    return [annotated(f"Question {i}?", [("g" * (50 + gap), GOOD), ("b" * 50, BAD)]) for i, gap in enumerate(gaps)]


@pytest.mark.parametrize(
    ("gaps", "bounds", "mean"),
    [
        # sum 185, mean 30.8; without 200: -15, -3; without 20: -35, -8.75. Nearest to 0 is -3
        ([-30, -10, 0, 5, 20, 200], (None, 20), -3),
        # the same with the other side the heavier
        ([30, 10, 0, -5, -20, -200], (-20, None), 3),
        # sum 8, mean 2; without 10: -2, mean -0.67: nearer, though it is beyond 0
        ([-4, 1, 1, 10], (None, 1), -2 / 3),
        # mean 1; without 3: mean -1, as near with fewer pairs
        ([-1, 3], (None, 3), 1),
        # equal gaps stay or go together: 5 + 5 - 4 = 6, mean 2; without both: -4
        ([-4, 5, 5], (None, 5), 2),
        # in balance already
        ([-7, 7, 0], (None, None), 0),
    ],
)
def test_the_bound_whose_mean_is_nearest_to_equal(gaps, bounds, mean):
    found = Gaps(gaps)
    assert found.bounds() == bounds
    assert found.mean(bounds) == pytest.approx(mean)


def test_no_pairs_need_no_bound():
    assert Gaps().bounds() == (None, None)


@pytest.mark.parametrize(("gaps", "side"), [([1, 5, 9], "chosen"), ([-3], "rejected")])
def test_where_one_side_is_always_the_longer_no_bound_helps(gaps, side):
    with pytest.raises(UserError, match=rf"the {side} text is the longer in all {len(gaps)} pairs. Give bounds"):
        Gaps(gaps).bounds()


def test_balanced_settings_keep_the_pairs_within_the_bound():
    given = rows(-30, -10, 0, 5, 20, 200)
    how = balanced(given, Pairs(length_gap="balance"), seed=0)
    assert how == Pairs(length_gap=(None, 20))
    made = list(build_preference_pairs(given, how, seed=0))
    assert [gap(p) for p in made[:5]] == [-30, -10, 0, 5, 20]
    assert made[5] == Failure(
        stage="pairs",
        record_id=given[5].prompt.id,
        reason=Reason.FILTERED,
        detail="chosen minus rejected is +200 characters, outside ..20",
    )


def test_settings_without_balance_come_back_and_nothing_is_read():
    def unread():
        yield pytest.fail("must not be read")

    for how in (Pairs(), Pairs(length_gap=(-5, 5))):
        assert balanced(unread(), how, seed=0) is how


def test_white_space_at_the_ends_is_no_length():
    (pair,) = build_preference_pairs([annotated("?", [("abc \n", GOOD), ("  x", BAD)])], Pairs(), seed=0)
    assert gap(pair) == 2


def test_a_builder_cannot_balance_by_itself():
    with pytest.raises(UserError, match=r"balance is found over a whole set; .* align.pairs.lengths.balanced"):
        list(build_preference_pairs(rows(3), Pairs(length_gap="balance"), seed=0))
