"""The yardstick of `bench/annotate.py`: spans that can be worked out by hand."""

from __future__ import annotations

import pytest

from bench.annotate_rig.oracle import oracle


def always(seconds: float):  # type: ignore[no-untyped-def]
    return lambda key, attempt: (seconds, True)


def test_without_a_burst_the_last_request_goes_out_after_n_minus_1_intervals() -> None:
    # 60 a minute, 5 rows: sent at 0, 1, 2, 3, 4; the last answer comes 2.5 s after the last request.
    best = oracle("abcde", always(2.5), requests_per_minute=60, burst=1)
    assert (best.span, best.calls, best.in_flight) == (6.5, 5, 3)


def test_a_burst_goes_out_at_once() -> None:
    # Three tokens at the start: sent at 0, 0, 0, 1, 2.
    best = oracle("abcde", always(0.5), requests_per_minute=60, burst=3)
    assert (best.span, best.calls, best.in_flight) == (2.5, 5, 3)


def test_a_failed_row_goes_before_those_that_wait() -> None:
    # a is sent at 0 and fails at 0.5; at 1 it goes out again, before b (2) and c (3).
    sent: list[str] = []

    def draw(key: str, attempt: int) -> tuple[float, bool]:
        sent.append(f"{key}{attempt}")
        return 0.5, (key, attempt) != ("a", 0)

    best = oracle("abc", draw, requests_per_minute=60, burst=1)
    assert sent == ["a0", "a1", "b0", "c0"]
    assert (best.span, best.calls) == (3.5, 4)


def test_the_tail_is_the_last_rows_retries() -> None:
    # b is sent at 1, fails at 4, 7, and succeeds at 10; the bucket has long been full, so nothing is waited for.
    best = oracle("ab", lambda key, attempt: (3.0, key == "a" or attempt == 2), requests_per_minute=60, burst=1)
    assert (best.span, best.calls) == (10.0, 4)


def test_tokens_gained_while_idle_stop_at_the_burst() -> None:
    # Four rows at once all fail at 10; only two tokens have gathered by then, so the retries go at 10, 10, 11, 12.
    best = oracle("abcd", lambda key, attempt: (10.0 if attempt == 0 else 0.0, attempt > 0), requests_per_minute=60,
                  burst=2)  # fmt: skip
    # First tries at 0, 0, 1, 2: answers at 10, 10, 11, 12. Retries of a and b at 10, c at 11, d at 12.
    assert (best.span, best.calls) == (12.0, 8)


def test_nothing_to_do() -> None:
    assert oracle([], always(1.0), requests_per_minute=60, burst=1).span == 0.0


@pytest.mark.parametrize(("rpm", "burst", "n"), [(1200, 20, 600), (6000, 100, 1500), (300, 5, 100)])
def test_the_formula_of_a_clean_run(rpm: int, burst: int, n: int) -> None:
    # T* = (n - burst) / rate + latency (Little): the last of n requests leaves after n - burst intervals.
    best = oracle(map(str, range(n)), always(1.0), requests_per_minute=rpm, burst=burst)
    assert best.span == pytest.approx((n - burst) * 60 / rpm + 1.0)
