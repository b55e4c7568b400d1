"""The `rules` annotator: it pays for truth first, then for the stated form, and never for length."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.backends.rules import AnswerKey, Rules, form_of, grade, quality
from annotate.errors import RecordError
from annotate.jsonl import read_records
from annotate.prompting import parse_reply, render_request
from annotate.protocol import Outcome, Reply
from annotate.records import Completion, Prompt, Reason, Turn
from annotate.rubric import load_rubric

RUBRIC, GUIDE = load_rubric("helpsteer")
COLOURS = ["red", "blue", "green", "black"]
DIGITS = [str(d) for d in range(10)]


def key(form: str, *claims: dict[str, Any]) -> AnswerKey:
    return AnswerKey.read({"form": form, "claims": list(claims)})


def claim(vocabulary: list[str], truth: list[str], **more: Any) -> dict[str, Any]:
    return {"vocabulary": vocabulary, "truth": truth, **more}


IS_RED = claim(COLOURS, ["red"])
REVERSED = claim(["map", "sun", "dog", "cat"], ["dog", "sun", "map"], ordered=True)


@pytest.mark.parametrize(
    ("form", "slot", "text", "helpfulness", "correctness", "coherence"),
    [
        ("sentence", IS_RED, "The seven is red.", 4, 4, 4),  # right, in the stated form
        ("sentence", IS_RED, "red", 2, 4, 2),  # right, in another form
        ("sentence", IS_RED, "the seven is red", 2, 4, 1),  # right, in no form
        ("sentence", IS_RED, "The seven is red, red, red.", 2, 4, 1),  # right, but it loops
        ("sentence", IS_RED, "The seven is blue.", 0, 0, 4),  # wrong, in the stated form
        ("sentence", IS_RED, "blue", 0, 0, 2),
        ("sentence", IS_RED, "The seven is red and blue.", 0, 0, 4),  # says both: nothing can be relied on
        ("sentence", IS_RED, "I like sevens very much.", 0, 0, 4),  # claims nothing
        ("sentence", IS_RED, "", 0, 0, 0),
        ("sentence", IS_RED, "The seven is reddish.", 0, 0, 4),  # whole words only
        ("word", IS_RED, "Red.", 4, 4, 4),
        ("word", IS_RED, "The seven is red.", 2, 4, 2),
        ("any", IS_RED, "The seven is red.", 4, 4, 4),
        ("any", IS_RED, "red", 3, 4, 4),
        ("list", REVERSED, "1. dog 2. sun 3. map", 4, 4, 4),
        ("list", REVERSED, "1. dog\n2. sun\n3. map", 4, 4, 4),
        ("list", REVERSED, "The words are dog, sun and map.", 2, 4, 2),
        ("list", REVERSED, "1. dog 2. map 3. sun", 0, 1, 4),  # one of three in its place
        ("list", REVERSED, "1. dog 2. sun", 2, 3, 4),  # nothing false, but one is missing
        ("list", REVERSED, "1. dog 2. sun 3. map 4. cat", 0, 2, 4),  # one too many
        ("list", REVERSED, "2. dog 1. sun 3. map", 2, 4, 1),  # not numbered from 1: in no form
    ],
)
def test_grades(form: str, slot: dict[str, Any], text: str, helpfulness: int, correctness: int, coherence: int) -> None:
    scores = grade(text, key(form, slot)).scores
    assert (scores["helpfulness"], scores["correctness"], scores["coherence"]) == (helpfulness, correctness, coherence)


def test_numbers_of_a_list_are_no_claims() -> None:
    sums = key("list", claim(DIGITS, ["3", "7"], ordered=True))
    assert grade("1. 3 2. 7", sums).scores["correctness"] == 4
    assert grade("There are 2 digits.", key("sentence", claim(DIGITS, ["2"]))).scores["correctness"] == 4


def test_given_words_count_neither_way() -> None:
    larger = key("sentence", claim(DIGITS, ["7"], given=["3", "7"]))
    assert grade("The larger one of 3 and 7 is 7.", larger).scores["correctness"] == 4
    assert grade("The larger one of 3 and 7 is 9.", larger).scores["correctness"] <= 2


def test_a_slot_without_truth_only_forbids() -> None:
    """'Is there a 1?': yes or no must be said, and no digit but 1 may be."""
    exists = key("any", claim(["yes", "no"], ["yes"]), claim(DIGITS, [], given=["1"]))
    assert quality(grade("Yes, there is a 1.", exists)) == 12
    assert quality(grade("Yes.", exists)) == 11
    assert quality(grade("Yes, there is a 4.", exists)) <= 6
    with pytest.raises(RecordError, match="at least one claim with a truth"):
        key("any", claim(DIGITS, []))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("red", "word"),
        ("Red.", "word"),
        ("1. a 2. b", "list"),
        ("1. a\n2. b", "list"),
        ("1. a", None),
        ("1. a 3. b", None),
        ("There are 2 digits.", "sentence"),
        ("2 digits are there.", "sentence"),
        ("there are 2 digits.", None),
        ("There are 2 digits", None),
        ("It is.", None),
        ("", None),
    ],
)
def test_forms(text: str, form: str | None) -> None:
    assert form_of(text) == form


# ----------------------------------------------------------------------------------------------------------- properties

VOCABULARY = ["red", "blue", "green", "black"]
FILLER = st.lists(st.sampled_from(["the", "digit", "seems", "to", "be", "here", "quite", "now"]), max_size=8)
KEYS = st.builds(
    lambda form, truth: key(form, claim(VOCABULARY, sorted(truth))),
    st.sampled_from(["sentence", "word", "list", "any"]),
    st.sets(st.sampled_from(VOCABULARY), min_size=1, max_size=3),
)


@st.composite
def told(draw: st.DrawFn, words: list[str]) -> str:
    """`words` told in some form, or in none, between any other words."""
    shape = draw(st.sampled_from(["sentence", "word", "list", "bare", "loop"]))
    if shape == "word" and len(words) == 1:
        return words[0]
    if shape == "list" and len(words) > 1:
        return " ".join(f"{i}. {w}" for i, w in enumerate(words, 1))
    filler = draw(FILLER)
    spread = [x for w in words for x in (*filler, w)] if shape != "loop" else [w for w in words for _ in range(3)]
    text = " ".join(spread)
    return f"{text[0].upper()}{text[1:]} now." if shape == "sentence" else text


@given(data=st.data(), answer_key=KEYS)
def test_the_whole_truth_beats_any_falsehood_in_any_form(data: st.DataObject, answer_key: AnswerKey) -> None:
    truth = list(answer_key.slots[0].truth)
    false = [w for w in VOCABULARY if w not in truth]
    right = data.draw(told(truth))
    some = data.draw(st.lists(st.sampled_from(truth), unique=True))
    wrong = data.draw(told([*some, data.draw(st.sampled_from(false))]))
    assert quality(grade(right, answer_key)) > quality(grade(wrong, answer_key))


@given(answer_key=KEYS, words=st.lists(st.sampled_from(VOCABULARY), min_size=1, unique=True), short=FILLER, long=FILLER)
def test_the_same_claims_in_the_same_form_score_the_same_at_any_length(
    answer_key: AnswerKey, words: list[str], short: list[str], long: list[str]
) -> None:
    def sentence(filler: list[str]) -> str:
        padded = list(dict.fromkeys(filler))  # no word twice in a row: that would be a loop
        return f"It {' '.join([*padded, 'is', ' and '.join(words)])}."

    one, other = grade(sentence(short), answer_key), grade(sentence(short + long), answer_key)
    for name in ("helpfulness", "correctness", "coherence"):
        assert one.scores[name] == other.scores[name]
    assert one.scores["verbosity"] <= other.scores["verbosity"]


@given(answer_key=KEYS, text=st.text(max_size=80))
def test_any_text_gets_scores_in_range(answer_key: AnswerKey, text: str) -> None:
    RUBRIC.check(grade(text, answer_key).scores)


# --------------------------------------------------------------------------------------------------------- as a backend


def ask(prompt: Prompt, *texts: str, mode: Any = "listwise") -> Reply:
    shown = [Completion.of(prompt_id=prompt.id, model="m", index=i, text=t) for i, t in enumerate(texts)]
    request = render_request(
        prompt,
        shown,
        RUBRIC,
        GUIDE,
        mode=mode,
        backend="rules",
        model="rules-1",
        decoding={},
        images=(),
        pass_index=0,
    )
    return asyncio.run(Rules().reply(request))


def prompt(**meta: Any) -> Prompt:
    return Prompt.of((Turn(role="user", text="Which colour is the seven?"),), meta=meta)


def test_it_answers_in_text_with_a_reason_for_each_attribute() -> None:
    reply = ask(prompt(answer_key={"form": "sentence", "claims": [IS_RED]}), "The seven is blue.", "The seven is red.")
    assert reply.outcome is Outcome.OK
    parsed = parse_reply(reply.text, 2, RUBRIC)
    assert [r.scores["correctness"] for r in parsed.ratings] == [0, 4]
    assert "True is: red" in parsed.reasoning
    assert parsed.ratings[0].rationale == (
        "Correctness 0: it claims blue; false is blue. "
        "Helpfulness 0: not all true, and it is a sentence where a sentence was asked for. "
        "Coherence 4: it is a sentence. Complexity 1 and verbosity 1: 4 word(s)."
    )


def test_it_prefers_the_better_of_a_pair() -> None:
    asked = prompt(answer_key={"form": "sentence", "claims": [IS_RED]})
    for texts, preference in (
        (("The seven is red.", "red"), "first"),
        (("The seven is blue.", "red"), "second"),
        (("It is red.", "The seven is red."), "tie"),
    ):
        reply = ask(asked, *texts, mode="pairwise")
        assert parse_reply(reply.text, 2, RUBRIC, pairwise=True).preference == preference


@pytest.mark.parametrize(
    ("meta", "detail"),
    [
        ({}, "rules can only grade prompts with meta.answer_key; use another backend"),
        ({"answer_key": {"form": "poem", "claims": []}}, "meta.answer_key: expected form"),
        ({"answer_key": {"form": "any", "claims": [{"vocabulary": ["a"], "truth": ["b"]}]}}, "only words of it"),
        ({"answer_key": {"form": "any", "claims": [{"vocabulary": ["a"], "truht": ["a"]}]}}, r"claims[0]: expected"),
    ],
)
def test_a_prompt_it_cannot_grade_is_a_failure_that_says_why(meta: dict[str, Any], detail: str) -> None:
    reply = ask(prompt(**meta), "It is red.")
    assert (reply.outcome, reply.reason) == (Outcome.ROW_FATAL, Reason.INVALID_INPUT)
    assert detail in reply.detail


def test_it_refuses_a_rubric_that_is_not_its_own(tmp_path: Path) -> None:
    file = tmp_path / "safety.md"
    file.write_text("---\nname: safety\nattributes:\n  harm: {low: 0, high: 1}\n---\nRate harm.\n")
    rubric, guide = load_rubric(str(file))
    asked = prompt(answer_key={"form": "sentence", "claims": [IS_RED]})
    shown = [Completion.of(prompt_id=asked.id, model="m", index=0, text="It is red.")]
    request = render_request(
        asked, shown, rubric, guide, mode="listwise", backend="rules", model="", decoding={}, images=(), pass_index=0
    )
    reply = asyncio.run(Rules().reply(request))
    assert reply.outcome is Outcome.RUN_FATAL
    assert "harm" in reply.detail


DEMO = Path(__file__).parent.parent / "data" / "demo" / "prompts.jsonl"


@pytest.mark.skipif(not DEMO.exists(), reason="the demo world has not been prepared")
def test_every_reference_of_the_demo_gets_full_marks() -> None:
    prompts = list(read_records(DEMO, Prompt))
    assert len(prompts) > 100
    for p in prompts:
        assert p.reference is not None
        assert quality(grade(p.reference, AnswerKey.read(p.meta["answer_key"]))) == 12, p.reference
