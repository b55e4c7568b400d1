"""What a judge writes token by token: freely, or into a form of which it only chooses the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_judge import request, save_rubric
from tiny_llava import ask_about

from align.models.draws import SeededDraw
from align.models.pens import FormPen, Pen, Writing, form_of, steps_of
from align.models.tiny import build_tokenizer
from annotate.prompting import parse_reply
from annotate.rubric import load_rubric

END = 2


@pytest.fixture(scope="module")
def rubric(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`right` from 0 to 4, `clear` from 0 to 12."""
    return save_rubric(tmp_path_factory.mktemp("rubric"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(['{"ratings": [{"completion": 1, "right": 3, "clear": 12}]} The 7 is red.'] * 4, 340)


def form_pen(rubric: Path, tokenizer: Any, n: int = 1, mode: str = "listwise", room: int = 2000) -> FormPen:
    schema = request(rubric, ask_about(), ["x"] * n, mode=mode).schema
    assert schema is not None
    return FormPen(ends=[END], room=room, tokenizer=tokenizer, steps=steps_of(form_of(schema), tokenizer))


def reason(pen: FormPen, tokenizer: Any, thoughts: str) -> None:
    """Write the thoughts, and then turn to the form, unless they did so themselves."""
    for token in [*tokenizer(thoughts, add_special_tokens=False)["input_ids"], END]:
        if pen.at is None:
            pen.write(token)


def fill_in(pen: FormPen, choices: Sequence[str]) -> str:
    """Go on to the end with these choices, each token of which must be allowed where it comes."""
    left = iter(choices)
    wanted = [t for step in pen.steps for t in (dict(step)[next(left)] if len(step) > 1 else step[0][1])]
    for token in wanted[len(pen.tokens) - len(pen.thoughts) :]:
        assert token in (pen.allowed() or ())
        assert pen.write(token) == token
    assert pen.finish == "stop"
    assert pen.write(5) == END
    return pen.text()


def test_a_form_is_the_wanted_json_with_its_numbers_left_open(rubric: Path) -> None:
    right, clear = tuple("01234"), tuple(str(n) for n in range(13))
    assert form_of(request(rubric, ask_about(), ["x", "y"]).schema or {}) == [
        '{"ratings": [{"completion": 1, "right": ',
        right,
        ', "clear": ',
        clear,
        '}, {"completion": 2, "right": ',
        right,
        ', "clear": ',
        clear,
        "}]}",
    ]
    compared = request(rubric, ask_about(), ["x", "y"], mode="pairwise").schema
    assert form_of(compared or {}) == ['{"preference": ', ('"first"', '"second"', '"tie"'), "}"]


def test_a_form_in_tokens_reads_as_the_form(rubric: Path, tokenizer: Any) -> None:
    pen = form_pen(rubric, tokenizer)
    texts = [[tokenizer.decode(tokens) for _, tokens in step] for step in pen.steps]
    # the space before a number belongs to the fixed text or to every choice, as the tokenizer has it
    assert "".join(t[0] for t in texts) == '\n\n{"ratings": [{"completion": 1, "right": 0, "clear": 0}]}'
    assert [len(step) for step in pen.steps] == [1, 1, 5, 1, 13, 1]


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=4),
    thoughts=st.text(max_size=60)
    | st.sampled_from(['{"ratings": []}', "<think>right: 3", "</think> right: 4\nclear: 1"]),
)
def test_a_form_filled_in_is_read_as_it_was_meant_whatever_was_thought(
    rubric: Path, tokenizer: Any, scores: list[tuple[int, int]], thoughts: str
) -> None:
    scale, _ = load_rubric(str(rubric))
    pen = form_pen(rubric, tokenizer, len(scores))
    reason(pen, tokenizer, thoughts)
    parsed = parse_reply(fill_in(pen, [str(score) for both in scores for score in both]), len(scores), scale)
    assert [(r.scores["right"], r.scores["clear"]) for r in parsed.ratings] == scores


@pytest.mark.parametrize("preference", ["first", "second", "tie"])
def test_a_preference_is_chosen_like_a_number(rubric: Path, tokenizer: Any, preference: str) -> None:
    scale, _ = load_rubric(str(rubric))
    pen = form_pen(rubric, tokenizer, 2, "pairwise")
    reason(pen, tokenizer, "The 7 is red.")
    parsed = parse_reply(fill_in(pen, [f'"{preference}"']), 2, scale, pairwise=True)
    assert (parsed.preference, parsed.reasoning) == (preference, "The 7 is red.")


@pytest.mark.parametrize(
    ("thoughts", "kept"),
    [
        ("The 7 is red.", "The 7 is red."),
        # a brace within a line is mathematics, on a line of its own or in a fence it begins the reply's JSON
        ("So \\frac{1}{7} is red.", "So \\frac{1}{7} is red."),
        ('The 7 is red.\n{"right": 3}', "The 7 is red."),
        ('The 7 is red.\n```json\n{"right": 3}', "The 7 is red."),
        ('{"right": 3}', ""),
    ],
)
def test_json_of_its_own_ends_the_reasoning(rubric: Path, tokenizer: Any, thoughts: str, kept: str) -> None:
    pen = form_pen(rubric, tokenizer)
    reason(pen, tokenizer, thoughts)
    assert pen.reasoning == kept


def test_reasoning_leaves_room_for_the_form(rubric: Path, tokenizer: Any) -> None:
    pen = form_pen(rubric, tokenizer, room=60)
    n = 0
    while pen.allowed() is None:
        pen.write(7)
        n += 1
    assert 0 < n < 60
    fill_in(pen, ["4", "10"])
    assert len(pen.tokens) < 60  # the end marker has its place too


def test_free_text_ends_at_its_end_marker_or_its_room(tokenizer: Any) -> None:
    red = tokenizer("The 7 is red.", add_special_tokens=False)["input_ids"]
    pen = Pen(ends=[END], room=50, tokenizer=tokenizer)
    assert [pen.write(token) for token in [*red, END, 9]] == [*red, END, END]
    assert (pen.text(), pen.finish) == ("The 7 is red.", "stop")
    short = Pen(ends=[END], room=len(red) - 1, tokenizer=tokenizer)
    assert [short.write(token) for token in red] == [*red[:-1], END]
    assert (short.text(), short.finish) == ("The 7 is red", "length")


def test_numbers_are_the_models_own_choice_among_those_allowed(rubric: Path, tokenizer: Any) -> None:
    def numbers(logits_1V: torch.Tensor, draw: SeededDraw | None) -> str:
        pen = form_pen(rubric, tokenizer)
        reason(pen, tokenizer, "")
        writing = Writing([pen], draw)
        while not pen.finish:
            assert writing(torch.zeros(1, 1), logits_1V).argmax().item() == pen.tokens[-1]
        return pen.filled

    likes = torch.zeros(1, len(tokenizer))
    for liked, word in ((9.0, " red"), (6.0, " 12"), (5.0, " 3")):  # the word is never allowed, 12 only for `clear`
        (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
        likes[0, token] = liked
    assert numbers(likes, None) == '{"ratings": [{"completion": 1, "right": 3, "clear": 12}]}'
    # with even odds everything comes up
    drawn = [numbers(torch.zeros(1, len(tokenizer)), SeededDraw([k], 1.0, 1.0)) for k in range(60)]
    assert {text.split('"right": ')[1].split(",")[0] for text in drawn} == set("01234")
    assert {"1", "9", "10", "11", "12"} < {text.split('"clear": ')[1].rstrip("}]") for text in drawn}
