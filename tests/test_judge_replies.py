"""What a judge said, read by each benchmark's rule; what cannot be read is never a number."""

from __future__ import annotations

import pytest

from align.benchmarks.judge_replies import read_grade, read_pair, read_rating, read_verdict

WEB_PAGE = "<html>\n<body>502 Bad Gateway [[5]] [7]</body></html>"


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("Good.\n\nRating: [[7]]", 7.0),
        ("Rating: [[9.5]]", 9.5),
        ("Rating: [8]", 8.0),
        ("As source [3] says, it is right. Rating: [[10]]", 10.0),  # two brackets go first
        ("Rating: [[6]]. With sources it were [[9]].", 6.0),
        ("<h1> is the right tag. Rating: [[8]]", 8.0),  # a judgment about HTML is no web page
        ("Rating: 7", None),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[-1]]", None),
        ("Rating: [[rating]]", None),
        ("", None),
        (WEB_PAGE, None),
        ("<!DOCTYPE html><html>[[5]]", None),
    ],
)
def test_the_grade_of_one_answer(reply, grade):
    assert read_rating(reply) == grade


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A is better. [[A]]", "first"),
        ("My final verdict is: [[B]]", "second"),
        ("[[C]]", "tie"),
        ("[[B]], that is: [[B]]", "second"),
        ('I am to output "[[A]]" if A is better, "[[B]]" if B is. [[B]]', None),
        ("A", None),
        ("[[D]]", None),
        ("", None),
        (WEB_PAGE + "[[A]]", None),
    ],
)
def test_the_comparison_of_two_answers(reply, verdict):
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "pair"),
    [
        ("8 10\nAssistant 2 is more detailed.", (8.0, 10.0)),
        ("\n7.5, 9\nBoth are good.", (7.5, 9.0)),
        ("8,6", (8.0, 6.0)),
        ("10 0", (10.0, 0.0)),
        ("Assistant 1 deserves 8 and Assistant 2 deserves 6", None),
        ("Assistant 1: 8\nAssistant 2: 6", None),
        ("8 10 of 10", None),
        ("8\n10", None),
        ("-1 -1", None),
        ("8 11", None),
        ("", None),
        (WEB_PAGE, None),
    ],
)
def test_the_two_grades_of_llava_bench(reply, pair):
    assert read_pair(reply) == pair


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("0.7", 0.7),
        ("1.0", 1.0),
        ("0", 0.0),
        ("1", 1.0),
        ("**0.5**", 0.5),
        ("0.4. It misses one of two.", 0.4),
        ("The correctness score is 0.7", None),  # failed, not 0.0
        ("7", None),
        ("1.5", None),
        ("-1", None),
        ("0.7/1.0", None),
        ("nan", None),
        (".", None),
        ("", None),
        ("502 Bad Gateway", None),
        (WEB_PAGE, None),
    ],
)
def test_the_grade_of_mm_vet(reply, grade):
    assert read_grade(reply) == grade
