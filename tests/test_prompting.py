"""What an annotator is sent, and what is made of its answer: a corpus of replies with the right reading of each."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.prompting import Rated, ReplyError, parse_reply, render_question, render_request, write_reply
from annotate.protocol import Request
from annotate.records import Completion, Image, Prompt, Turn
from annotate.rubric import load_rubric

RUBRIC, GUIDE = load_rubric("helpsteer")
NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def scores(*values: int) -> dict[str, int]:
    return dict(zip(NAMES, values, strict=True))


# Four completions were shown, or two, or one; `A` and `B` are what most replies below mean to say.
A, B = scores(4, 3, 4, 1, 2), scores(1, 0, 3, 1, 1)
A_JSON = '{"completion": 1, "helpfulness": 4, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 2}'
B_JSON = '{"completion": 2, "helpfulness": 1, "correctness": 0, "coherence": 3, "complexity": 1, "verbosity": 1}'

UNNUMBERED_A = A_JSON.replace('"completion": 1, ', "")
UNNUMBERED_B = B_JSON.replace('"completion": 2, ', "")
COLUMN = "| | Score |\n|---|---|\n" + "\n".join(f"| {name} | {{}} |" for name in NAMES) + "\n"
LINES = "\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2"

READABLE = {
    "the form asked for": (f'Thoughts.\n\n{{"reasoning": "r", "ratings": [{A_JSON}, {B_JSON}]}}', [A, B]),
    "pure json, pretty": (json.dumps({"ratings": [json.loads(A_JSON), json.loads(B_JSON)]}, indent=2), [A, B]),
    "fenced": (f'Thoughts first.\n```json\n{{"ratings": [{A_JSON}, {B_JSON}]}}\n```', [A, B]),
    "fenced, with prose after it": (f'```\n{{"ratings": [{A_JSON}, {B_JSON}]}}\n```\nI hope this helps!', [A, B]),
    "a bare list": (f"[{A_JSON}, {B_JSON}]", [A, B]),
    "one object a line": (f"{A_JSON}\n{B_JSON}", [A, B]),
    "named in another order": (f'{{"ratings": [{B_JSON}, {A_JSON}]}}', [A, B]),
    "under another word": (f'{{"evaluations": [{A_JSON}, {B_JSON}]}}', [A, B]),
    "commas too many": (f'{{"ratings": [{A_JSON}, {B_JSON},],}}', [A, B]),
    "keyed by completion": (
        '{"completion 1": {"helpfulness":4,"correctness":3,"coherence":4,"complexity":1,"verbosity":2},'
        ' "Completion 2": {"helpfulness":1,"correctness":0,"coherence":3,"complexity":1,"verbosity":1}}',
        [A, B],
    ),
    "keyed by number, in a list of ratings": (
        '{"ratings": {"1": {"helpfulness":4,"correctness":3,"coherence":4,"complexity":1,"verbosity":2},'
        ' "2": {"helpfulness":1,"correctness":0,"coherence":3,"complexity":1,"verbosity":1}}}',
        [A, B],
    ),
    "scores one level down": (
        '[{"completion": 1, "scores": {"helpfulness":4,"correctness":3,"coherence":4,"complexity":1,"verbosity":2}},'
        ' {"completion": 2, "scores": {"helpfulness":1,"correctness":0,"coherence":3,"complexity":1,"verbosity":1}}]',
        [A, B],
    ),
    "a list per attribute": (
        '{"helpfulness": [4, 1], "correctness": [3, 0], "coherence": [4, 3], "complexity": [1, 1], "verbosity":[2,1]}',
        [A, B],
    ),
    "a score and a reason per attribute": (
        '{"helpfulness": {"score": 4, "reason": "useful"}, "correctness": {"score": 3, "reason": "one slip"},'
        ' "coherence": {"score": 4}, "complexity": {"score": 1}, "verbosity": {"score": 2}}',
        [A],
    ),
    "capitals and aliases": (
        '{"Helpful": 4, "Accuracy": 3, "COHERENCE": 4, "Complexity": 1, "Verbose": 2, "overall": 9}',
        [A],
    ),
    "numbers as text": (
        '{"helpfulness": "4", "correctness": "3/4", "coherence": "4 out of 4", "complexity": "1", "verbosity":"**2**"}',
        [A],
    ),
    # The schema that was sent calls 3.0 an integer; what it means is certain.
    "a whole number with a point": (A_JSON.replace("3", "3.0"), [A]),
    "no number needed for one": (f"Good. {A_JSON.replace(chr(34) + 'completion' + chr(34) + ': 1, ', '')}", [A]),
    "thinking aloud with a draft": (f"<think>maybe {B_JSON}</think>{A_JSON}", [A]),
    "braces in the prose": ("The set {7} and the list [1, 2] are shown.\n" + A_JSON, [A]),
    "plain lines": (
        "Completion 1:\nHelpfulness: 4\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2\n\n"
        "Completion 2:\nHelpfulness: 1\nCorrectness: 0\nCoherence: 3\nComplexity: 1\nVerbosity: 1",
        [A, B],
    ),
    "markdown lines with reasons": (
        "### Completion 1\n- **Helpfulness**: 4 - serves well\n- **Correctness:** 3, one slip\n- *Coherence*: 4\n"
        "- Complexity: 1.\n- Verbosity: 2/4",
        [A],
    ),
    "numbered lines": (
        "1. Helpfulness: 4\n2. Correctness: 3\n3. Coherence: 4\n4. Complexity = 1\n5. Verbosity score: 2",
        [A],
    ),
    "one line each, as HelpSteer writes them": (
        "Response 1: Helpfulness:4,Correctness:3,Coherence:4,Complexity:1,Verbosity:2\n"
        "Response 2: Helpfulness:1,Correctness:0,Coherence:3,Complexity:1,Verbosity:1",
        [A, B],
    ),
    "one line without commas": (
        "Helpfulness: 4 Correctness: 3 Coherence: 4 Complexity: 1 Verbosity: 2",
        [A],
    ),
    "json below headings, the second first": (
        f"Completion 2:\n```json\n{UNNUMBERED_B}\n```\n**Completion 1**\n```json\n{UNNUMBERED_A}\n```",
        [A, B],
    ),
    "in order, without numbers, after thoughts": (
        f"Completion 1: fine.\nCompletion 2: wrong.\n\n[{UNNUMBERED_A}, {UNNUMBERED_B}]",
        [A, B],
    ),
    "in order, without numbers": (f"[{UNNUMBERED_A}, {UNNUMBERED_B}]", [A, B]),
    "line breaks within a string": (A_JSON.replace("{", '{"rationale": "one\ntwo", '), [A]),
    "a quotation mark within a string": (
        json.dumps(json.loads(A_JSON), indent=1).replace("{", '{\n "rationale": "a "seven"",'),
        [A],
    ),
    "a table below each heading, the second first": (
        "Ratings for completion 2:\n\n"
        + COLUMN.format(1, 0, 3, 1, 1)
        + "\nCompletion 1\n"
        + COLUMN.format(4, 3, 4, 1, 2),
        [A, B],
    ),
    "attributes mentioned in prose": (
        "Helpfulness: it does help. In terms of correctness: fine.\n\nCompletion 1 is right.\n\n"
        "Helpfulness: 4\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2",
        [A],
    ),
    "a table, one line per completion": (
        "| Completion | Helpfulness | Correctness | Coherence | Complexity | Verbosity | Reason |\n"
        "|---|:-:|---|---|---|---|---|\n| 1 | 4 | 3 | 4 | 1 | 2 | fine |\n| **2** | 1 | 0 | 3 | 1 | 1 | wrong |",
        [A, B],
    ),
    "a table, one column per completion": (
        "Thoughts.\n\n| | Completion 1 | Completion 2 |\n|---|---|---|\n| **Helpfulness** | 4 | 1 |\n"
        "| Correctness | 3 | 0 |\n| Coherence | 4 | 3 |\n| Complexity | 1 | 1 |\n| Verbosity | 2 | 1 |\n",
        [A, B],
    ),
}

FOUR = ", ".join(A_JSON.replace('"completion": 1', f'"completion": {i}') for i in (1, 2, 3))

UNREADABLE = {
    "empty": ("", 1, "the reply is empty"),
    "a refusal": ("I cannot rate this.", 1, "no ratings found"),
    "cut off": (f'{{"ratings": [{A_JSON}, {B_JSON[:50]}', 2, "cut off within a JSON object"),
    "cut off, with all that was wanted": (f'{{"ratings": [{A_JSON}', 1, "cut off within a JSON object"),
    "three ratings for four completions": (f"[{FOUR}]", 4, "3 rating(s) for 4 completion(s)"),
    "one too many": (f"[{FOUR}]", 2, "3 rating(s) for 2 completion(s)"),
    "the same one twice": (f"[{A_JSON}, {A_JSON}]", 2, "completion 1 is rated twice"),
    "one that was not shown": (f"[{A_JSON}, {B_JSON.replace('2,', '3,', 1)}]", 2, "rates completion 3"),
    "counted from nought": (
        '[{"index": 0, "helpfulness": 4}, {"index": 1, "helpfulness": 4}]',
        2,
        "rates completion 0",
    ),
    "some numbered, some not": (f"[{A_JSON}, {B_JSON.replace('completion', 'x')}]", 2, "does not say which completion"),
    "by letters": (
        f"[{A_JSON.replace('1', chr(34) + 'B' + chr(34), 1)}, {B_JSON}]",
        2,
        "completion 2 is rated twice",
    ),
    "ranked": (
        f'[{{"rank": 1, {UNNUMBERED_B[1:]}, {{"rank": 2, {UNNUMBERED_A[1:]}]',
        2,
        "does not say which completion",
    ),
    "ranked in a table": (
        "| Rank | Helpfulness | Correctness | Coherence | Complexity | Verbosity |\n"
        "| 1 | 4 | 3 | 4 | 1 | 2 |\n| 2 | 1 | 0 | 3 | 1 | 1 |",
        2,
        "does not say which completion",
    ),
    "ranked in plain lines": (
        f"Rank 1: completion 2\nHelpfulness: 4{LINES}\nRank 2: completion 1\nHelpfulness: 1{LINES}",
        2,
        "1 rating(s) for 2",
    ),
    "on second thoughts": (f"Helpfulness: 3 -> 4{LINES}", 1, "helpfulness is '3 -> 4'"),
    "a five": (A_JSON.replace("4", "5"), 1, "helpfulness is 5, not a whole number from 0 to 4"),
    "a half": (A_JSON.replace("3", "3.5"), 1, "correctness is 3.5"),
    "a minus": (A_JSON.replace("3", "-1"), 1, "correctness is -1"),
    "true": (A_JSON.replace("3", "true"), 1, "correctness is True"),
    "nothing": (A_JSON.replace("3", "null"), 1, "correctness is None"),
    "a word": (A_JSON.replace("3", '"high"'), 1, "correctness is 'high'"),
    "a range": (A_JSON.replace("3", '"3-4"'), 1, "correctness is '3-4'"),
    "of ten": (A_JSON.replace("3", '"3/10"'), 1, "correctness is '3/10'"),
    "an attribute missing": (A_JSON.replace("verbosity", "humour"), 1, "no verbosity"),
    "an attribute twice": (A_JSON.replace("verbosity", "helpful"), 1, "helpfulness is given twice"),
    "an attribute twice, by one name": (A_JSON.replace("}", ', "verbosity": 1}'), 1, "verbosity is given twice"),
    "a draft and a final version": (f"First {A_JSON} but then {A_JSON}", 1, "2 rating(s) for 1"),
    "a word in plain lines": (
        "Helpfulness: high\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2",
        1,
        "no helpf",
    ),
    "a minus in plain lines": (f"Helpfulness: -1{LINES}", 1, "no helpfulness"),
    "nothing of four in plain lines": (f"Helpfulness: /4{LINES}", 1, "no helpfulness"),
    "a half in plain lines": (
        "Helpfulness: 4.5\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2",
        1,
        "'4.5'",
    ),
    "a choice in plain lines": (
        "Helpfulness: 3 or 4\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2",
        1,
        "'3 or",
    ),
    "plain lines for nobody": (
        "Helpfulness: 4\nCorrectness: 3\nCoherence: 4\nComplexity: 1\nVerbosity: 2",
        2,
        "1 rating",
    ),
    "a table with a gap": (
        "| Completion | Helpfulness | Correctness | Coherence | Complexity | Verbosity |\n| 1 | 4 | | 4 | 1 | 2 |",
        1,
        "correctness is ''",
    ),
}


@pytest.mark.parametrize("case", READABLE)
def test_a_reply_is_read(case: str) -> None:
    text, expected = READABLE[case]
    assert [r.scores for r in parse_reply(text, len(expected), RUBRIC).ratings] == expected


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_uncertain_reply_is_an_error_with_its_reason(case: str) -> None:
    text, n_shown, reason = UNREADABLE[case]
    with pytest.raises(ReplyError) as error:
        parse_reply(text, n_shown, RUBRIC)
    assert reason in str(error.value)


def test_reasoning_and_reasons_are_kept() -> None:
    parsed = parse_reply(
        'The image shows a 7.\n```json\n{"reasoning": "So 1 is right.", "ratings": ['
        + A_JSON[:-1]
        + ', "rationale": "It says 7."}]}\n```',
        1,
        RUBRIC,
    )
    assert parsed.reasoning == "The image shows a 7.\nSo 1 is right."
    assert parsed.ratings == (Rated(scores=A, rationale="It says 7."),)


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ('Because.\n{"reasoning": "", "preference": "first"}', "first"),
        ('{"preference": "tie"}', "tie"),
        ('{"winner": 2}', "second"),
        ('```json\n{"preference": "Completion 1"}\n```', "first"),
        ("The second is wrong.\n**Preference:** first", "first"),
    ],
)
def test_a_preference_is_read(text: str, preference: str) -> None:
    assert parse_reply(text, 2, RUBRIC, pairwise=True).preference == preference


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Both are fine.", "expected one preference, found none"),
        ('{"preference": "first"} or {"preference": "second"}', "found first, second"),
        ('{"preference": "the red one"}', "preference is 'the red one'"),
        ('{"preference": null}', "preference is None"),
    ],
)
def test_a_preference_is_never_guessed(text: str, reason: str) -> None:
    with pytest.raises(ReplyError, match=reason):
        parse_reply(text, 2, RUBRIC, pairwise=True)


# ----------------------------------------------------------------------------------------------------------- properties

RATINGS = st.lists(
    st.builds(
        Rated,
        scores=st.fixed_dictionaries({name: st.integers(0, 4) for name in NAMES}),
        rationale=st.text(max_size=40),
    ),
    min_size=1,
    max_size=5,
)


@given(ratings=RATINGS, reasoning=st.text(alphabet=st.characters(exclude_characters="<{["), max_size=60))
def test_what_is_written_is_read_back(ratings: list[Rated], reasoning: str) -> None:
    assert list(parse_reply(write_reply(reasoning, ratings), len(ratings), RUBRIC).ratings) == ratings


@given(
    text=st.one_of(
        st.text(max_size=300),
        st.lists(
            st.sampled_from(
                [A_JSON, B_JSON, "[", "]", "{", "}", ",", "|", "\n", "Completion 2:", "Helpfulness: ", "4", "5", "4.0"]
            ),
            max_size=30,
        ).map("".join),
    ),
    n_shown=st.integers(1, 4),
)
def test_whatever_the_text_scores_are_in_range_or_an_error(text: str, n_shown: int) -> None:
    try:
        parsed = parse_reply(text, n_shown, RUBRIC)
    except ReplyError:
        return
    assert len(parsed.ratings) == n_shown
    for rated in parsed.ratings:
        RUBRIC.check(rated.scores)


def test_a_reply_of_brackets_alone_is_soon_given_up() -> None:
    with pytest.raises(ReplyError, match="no ratings found"):
        parse_reply("[" * 100_000, 1, RUBRIC)


# --------------------------------------------------------------------------------------------------------------- asking

SEVEN = Image(path="7.png", sha256=hashlib.sha256(b"seven").hexdigest())
ASKED = Prompt.of(
    (
        Turn(role="user", text="Before <image> after: which digit?", images=(SEVEN,)),
        Turn(role="assistant", text="A seven."),
        Turn(role="user", text="Which colour?"),
    )
)
SHOWN = [Completion.of(prompt_id=ASKED.id, model="m", index=i, text=t) for i, t in enumerate(["Red.", "It is blue."])]


def request(**changes: Any) -> Request:
    options: dict[str, Any] = {
        "mode": "listwise",
        "backend": "rules",
        "model": "rules-1",
        "decoding": {"temperature": 0.0},
        "images": [b"seven"],
        "pass_index": 0,
    }
    options.update(changes)
    shown = options.pop("shown", SHOWN)
    return render_request(ASKED, shown, RUBRIC, GUIDE, **options)


def test_the_image_stands_in_its_place_and_the_rubric_comes_first() -> None:
    system, user = request().messages
    assert (system.role, user.role) == ("system", "user")
    assert GUIDE in system.parts[0].text
    kinds = [(p.kind, p.text.strip() or p.image) for p in user.parts]
    at = kinds.index(("image", 0))
    assert (kinds[at - 1], kinds[at + 1]) == (("text", "Before"), ("text", "after: which digit?"))


def test_completions_are_known_by_position_alone() -> None:
    whole = "".join(p.text for m in request().messages for p in m.parts)
    assert "completion 1]]\nRed." in whole
    assert "completion 2]]\nIt is blue." in whole
    for secret in (SHOWN[0].id, SHOWN[1].id, ASKED.id):
        assert secret not in whole


def test_the_hash_covers_everything_that_decides_the_reply() -> None:
    same = request().sha256
    assert request(images=()).sha256 == same  # the image counts by the hash in its record
    changed = [
        request(shown=SHOWN[::-1]),
        request(model="rules-2"),
        request(backend="replay"),
        request(decoding={"temperature": 0.7}),
        request(pass_index=1),
        request(attempt=1),
        request(mode="pairwise"),
    ]
    assert len({same, *(r.sha256 for r in changed)}) == 1 + len(changed)


def test_the_schema_has_reasons_before_numbers() -> None:
    schema = request().schema
    assert schema is not None
    assert list(schema["properties"]) == ["reasoning", "ratings"]
    entry = schema["properties"]["ratings"]["items"]
    assert list(entry["properties"]) == ["completion", "rationale", *NAMES]
    assert entry["properties"]["verbosity"] == {"type": "integer", "minimum": 0, "maximum": 4}


def test_a_question_is_the_conversation_itself() -> None:
    asked = render_question(ASKED, backend="rules", model="rules-1", decoding={}, images=[b"seven"])
    assert [m.role for m in asked.messages] == ["user", "assistant", "user"]
    assert [p.kind for p in asked.messages[0].parts] == ["text", "image", "text"]
    assert asked.messages[2].parts[0].text == "Which colour?"
    assert asked.schema is None
