"""Instructions, targets, and answers read back out of them: whatever the answer, a target reads as what it states."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from align.answers import FAILED, normal, read_answer, read_choice, same_answer, tally
from align.templates import (
    DIRECT_ANSWER,
    WORDINGS,
    Templates,
    answer_type,
    as_instruction,
    check_row,
    direct_line,
    wordings,
)
from annotate.errors import RecordError
from annotate.records import Image, Prompt, Turn

METALS = ["tin", "lead", "zinc"]
PIECES = st.sampled_from(
    [
        "3.5",
        "U.S.",
        "a.m.",
        "1,000",
        "St.",
        "A",
        "B.",
        "(C)",
        "yes",
        "No",
        ".",
        "...",
        "the direct answer is:",
        "é",
        '"',
    ]
)
ANSWERS = st.one_of(
    st.lists(PIECES, min_size=1, max_size=4).map(" ".join), st.text(min_size=1, max_size=20)
).filter(lambda text: bool(text.split()))  # fmt: skip


def asked(text: str, reference: str | None, images: tuple[Image, ...] = (), **meta: object) -> Prompt:
    return Prompt.of((Turn(role="user", text=text, images=images),), reference=reference, meta=dict(meta))


def test_there_are_twenty_different_wordings_of_each_kind() -> None:
    for words in (*WORDINGS.values(), DIRECT_ANSWER):
        assert len(set(words)) == len(words) == 20


# ---------------------------------------------------------------------------------------------------------- rendering


def test_a_multiple_choice_row_in_its_words() -> None:
    photo = Image(path="a.jpg", sha256="0" * 64)
    meta = {"task": "multiple_choice", "question": "What is it?", "context": "A pipe.", "choices": METALS}
    row = asked("<image>\nWhat is it?", "lead", (photo,), **meta, answer="lead", answer_index=1)
    verb, lead = wordings("multiple_choice", row.id, 0, 0)
    made = as_instruction(row, "multiple_choice", Templates(), seed=0, copy=0)
    said = WORDINGS["multiple_choice"][verb]
    assert made.prompt.turns[0].text == f"<image>\nA pipe.\n\nWhat is it?\n{said}\nA. tin\nB. lead\nC. zinc"
    assert made.prompt.images == (photo,)
    assert made.target == f"{DIRECT_ANSWER[lead]}, the direct answer is: lead."
    for choice, stated in (("letter", "B."), ("both", "B. lead.")):
        made = as_instruction(row, "multiple_choice", Templates(choice=choice), seed=0, copy=0)  # type: ignore[arg-type]
        assert made.target.endswith(f"the direct answer is: {stated}")


def test_short_and_yes_no_rows_have_the_instruction_below_the_question() -> None:
    short = asked("When did it open?", "1852", task="short_answer")
    made = as_instruction(short, answer_type(short), Templates(), seed=0, copy=0)
    question, instruction = made.prompt.turns[0].text.split("\n")
    assert question == "When did it open?" and instruction in WORDINGS["short_answer"]
    truth = asked("Can a fish fly?", "False", task="true_false")
    assert as_instruction(truth, "true_false", Templates(), seed=0, copy=0).target.endswith("the direct answer is: no.")


def test_what_may_stand_before_the_line() -> None:
    row = asked("Can a fish fly?", "yes", task="true_false", answer="yes", rationale="Flying fish\nglide.")
    for before, lines in (("nothing", []), ("answer", ["yes"]), ("rationale", ["Flying fish glide."])):
        made = as_instruction(row, "true_false", Templates(before=before), seed=0, copy=0)  # type: ignore[arg-type]
        assert made.target.split("\n")[:-1] == lines
        assert read_answer(made.target, "true_false").text == "yes"
    plain = as_instruction(row, "true_false", Templates(direct_line=False, instruction=False), seed=0, copy=0)
    assert (plain.prompt.turns, plain.target) == (row.turns, "yes")


def test_rows_of_no_known_type_stay_as_they_are() -> None:
    row = asked("Tell me a story.", "Once upon a time.\nThe end.", task="instruction")
    made = as_instruction(row, answer_type(row), Templates(), seed=0, copy=0)
    assert (made.prompt.turns, made.target, made.type) == (row.turns, "Once upon a time.\nThe end.", None)


def test_wordings_are_drawn_by_row_copy_and_seed_and_all_of_them_are_used() -> None:
    drawn = [wordings("short_answer", f"row {i}", 0, 0) for i in range(4000)]
    assert drawn == [wordings("short_answer", f"row {i}", 0, 0) for i in range(4000)]
    assert len(set(drawn)) == 400 and min(drawn.count(pair) for pair in set(drawn)) > 0
    assert wordings("short_answer", "row 1", 0, 0) != wordings("short_answer", "row 1", 0, 1)
    assert wordings("short_answer", "row 1", 0, 0) != wordings("short_answer", "row 1", 1, 0)


@pytest.mark.parametrize(
    ("kind", "reference", "meta", "says"),
    [
        ("short_answer", None, {}, "no answer: reference is empty"),
        ("true_false", "maybe", {}, "neither yes nor no"),
        ("multiple_choice", "tin", {}, "meta.choices"),
        ("multiple_choice", "tin", {"choices": METALS, "answer_index": 3}, "meta.answer_index: 3 is none of 3 choices"),
        ("multiple_choice", "tin", {"choices": METALS, "answer_index": 0}, "meta.question"),
        ("multiple_choice", "x", {"choices": ["x"] * 27, "answer_index": 0}, "more than there are letters"),
        (
            "multiple_choice",
            "tin",
            {"choices": METALS, "answer_index": True, "question": "?"},
            "meta.answer_index: True",
        ),
        ("short_answer", "a", {"question": 7}, "meta.question: expected text, got 7"),
        ("short_answer", "a", {"question": "<image> Why?"}, "1 <image> placeholder"),
        ("short_answer", "see <image>", {}, "its answer holds <image>"),
    ],
)
def test_rows_that_cannot_be_instructions_say_why(kind: str, reference: str | None, meta: dict, says: str) -> None:
    row = asked("What?", reference, **meta)
    with pytest.raises(RecordError, match=says):
        as_instruction(row, kind, Templates(), seed=0, copy=0)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=says):
        check_row(row, kind, Templates())  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- reading back


@settings(max_examples=300, deadline=None)
@given(answer=ANSWERS, lead=st.integers(0, 19), before=st.sampled_from(["nothing", "answer", "rationale"]))
@example(answer="3.5", lead=0, before="nothing")
@example(answer="U.S.", lead=1, before="answer")
@example(answer="so the direct answer is: B. no", lead=2, before="rationale")
@example(answer=".", lead=3, before="nothing")
def test_every_short_answer_comes_back(answer: str, lead: int, before: str) -> None:
    row = asked("What?", answer, task="short_answer", rationale="It was said: the direct answer is: 7.")
    made = as_instruction(row, "short_answer", Templates(before=before), seed=lead, copy=0)  # type: ignore[arg-type]
    found = read_answer(made.target)
    assert found.how == "line" and same_answer(found.text or "", answer)
    if not answer.rstrip().endswith((".", "!", "?", "…")):
        assert found.text == " ".join(answer.split())  # to the letter


@settings(max_examples=300, deadline=None)
@given(st.lists(ANSWERS, min_size=2, max_size=6), st.data(), st.sampled_from(["text", "letter", "both"]))
def test_every_option_comes_back(choices: list[str], data: st.DataObject, form: str) -> None:
    index = data.draw(st.integers(0, len(choices) - 1))
    row = asked("What?", "?", question="What?", choices=choices, answer=choices[index], answer_index=index)
    templates = Templates(choice=form)  # type: ignore[arg-type]
    try:
        check_row(row, "multiple_choice", templates)
    except RecordError:  # options so alike that no form tells them apart, which is counted
        return
    made = as_instruction(row, "multiple_choice", templates, seed=0, copy=0)
    assert read_answer(made.target, "multiple_choice", choices).index == index


def test_options_that_are_letters_or_equal_are_named_by_both() -> None:
    swapped = {"question": "Which?", "choices": ["C", "A", "B"], "answer": "C", "answer_index": 0}
    made = as_instruction(asked("?!", "C", **swapped), "multiple_choice", Templates(), seed=0, copy=0)
    assert made.target.endswith("the direct answer is: A. C.")  # "C." would be B's text or the third option
    twins = {"question": "Which?", "choices": ["x", "x"], "answer": "x", "answer_index": 1}
    made = as_instruction(asked("?!", "x", **twins), "multiple_choice", Templates(), seed=0, copy=0)
    assert made.target.endswith("the direct answer is: B. x.")


@pytest.mark.parametrize(
    ("text", "answer", "how"),
    [
        ("Put simply, the direct answer is: 3.5.", "3.5", "line"),  # the published code reads 3
        ("So THE DIRECT ANSWER IS the U.S.", "the U.S.", "line"),  # ... and U
        ("The direct answer is: at 5 a.m.", "at 5 a.m.", "line"),
        ("The direct answer is: 1,000,000.", "1,000,000", "line"),
        ("The direct answer is:\n\nParis.\n", "Paris", "line"),
        ("First, the direct answer is: 3.\nNo: the direct answer is: 4.", "4", "line"),
        ("I think the answer is Rome.", "Rome", "phrase"),
        ("Answer: Rome", "Rome", "phrase"),
        ("Rome.", "Rome", "bare"),
        ("Perhaps Rome.\nPerhaps Paris.", None, "none"),
        ("The direct answer is:", None, "none"),
        ("", None, "none"),
    ],
)
def test_answers_of_models(text: str, answer: str | None, how: str) -> None:
    found = read_answer(text)
    assert (found.text, found.how) == (answer, how)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("lead", 1), ("Lead.", 1), ("B", 1), ("b", None), ("(B)", 1), ("**B**", 1), ("B. lead", 1), ("Option B", 1),
        ("B, because it is heavy", 1), ("It must be lead, I think.", 1), ("B. tin", None), ("tin or lead", None),
        ("It is not tin.", None), ("D", None), ("gold", None), ("A dog", None),
    ],
)  # fmt: skip
def test_which_option_is_meant(text: str, index: int | None) -> None:
    assert read_choice(text, METALS) == index


def test_numbers_among_options() -> None:
    assert read_choice("about 3.5 metres", ["3", "3.5", "5 m"]) == 1  # "3" and "5 m" do not stand in it
    assert read_choice("1000", ["100", "1,000", "10,000"]) == 1
    assert read_choice("B. Lincoln", ["A. Lincoln", "B. Lincoln"]) == 1


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("Yes.", "yes"), ("no, never", "no"), ("True", "yes"), ("FALSE.", "no"), ("yes or no", None), ("Perhaps", None)],
)
def test_yes_or_no(text: str, verdict: str | None) -> None:
    assert read_answer(f"Hence, the direct answer is: {text}", "true_false").text == verdict


def test_what_counts_as_the_same_answer() -> None:
    for one, other in (("1,000", "1000"), ("3.50", "3.5"), ("U.S.", "u.s"), ('"Paris"', "paris."), ("ＡＢＣ", "abc")):
        assert same_answer(one, other)
    for one, other in (("3.5", "35"), ("1,00", "100"), ("-2", "2"), ("10", "1"), ("Paris", "Rome")):
        assert not same_answer(one, other)
    assert normal("12345678901234567890123456789012345") != normal("12345678901234567890123456789012346")


def test_the_failure_rate_counts_what_could_not_be_read() -> None:
    found = [read_answer(direct_line("7", 0)), read_answer("7"), FAILED, read_answer("It may be.\nOr not.")]
    assert tally(found) == {"n": 4, "line": 1, "phrase": 0, "bare": 1, "none": 2, "failure_rate": 0.5}
    assert tally([])["failure_rate"] is None
