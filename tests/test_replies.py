"""The reply parser on a corpus of hand-made replies (`tests/replies/*.yaml`), and under fuzzing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.prompting import ReplyError, parse_reply
from annotate.records import Rubric, Scale
from annotate.rubric import load_rubric

RUBRIC, _ = load_rubric("helpsteer")
NAMES = list(RUBRIC.attributes)


def corpus(file: str) -> Any:
    cases = yaml.safe_load((Path(__file__).parent / "replies" / file).read_text(encoding="utf-8"))
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


@corpus("read.yaml")
def test_a_reply_is_read(case: dict[str, Any]) -> None:
    expected = [dict(zip(NAMES, map(int, line.split()), strict=True)) for line in case["scores"]]
    parsed = parse_reply(case["text"], len(expected), RUBRIC, completions=case.get("completions", ()))
    assert [rated.scores for rated in parsed.ratings] == expected


@corpus("refused.yaml")
def test_a_reply_is_refused(case: dict[str, Any]) -> None:
    options = {name: case[name] for name in ("completions", "cut_off") if name in case}
    with pytest.raises(ReplyError) as error:
        parse_reply(case["text"], case.get("n", 1), RUBRIC, **options)
    assert case["why"] in str(error.value)


@corpus("preferences.yaml")
def test_a_preference_is_read_or_refused(case: dict[str, Any]) -> None:
    options: dict[str, Any] = {"pairwise": True, "completions": case.get("completions", ())}
    if "prefers" in case:
        assert parse_reply(case["text"], 2, RUBRIC, **options).preference == case["prefers"]
        return
    with pytest.raises(ReplyError) as error:
        parse_reply(case["text"], 2, RUBRIC, **options)
    assert case["why"] in str(error.value)


# -------------------------------------------------------------------------------------------------------------- fuzzing

SCORES = st.fixed_dictionaries({name: st.integers(0, 4) for name in NAMES})
RATINGS = st.lists(SCORES, min_size=1, max_size=5)
# Prose with digits, line breaks and marks, but no bracket that opens JSON.
PROSE = st.text(st.sampled_from("aeiou nrst 0123456789 .,:;-–!?()|*#`'\"\n"), max_size=80)

Entries = list[dict[str, Any]]


def written(ratings: list[dict[str, int]]) -> Entries:
    """The entries of the form that is asked for."""
    return [{"completion": i, "rationale": f"number {i}, fine", **scores} for i, scores in enumerate(ratings, 1)]


def scores_in(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("completion", "rationale")}


def as_lines(entries: Entries) -> str:
    lines = []
    for entry in entries:
        lines += [f"### Completion {entry['completion']}"]
        lines += [f"- **{name.title()}:** {score}/4" for name, score in scores_in(entry).items()]
    return "\n".join(lines)


def as_table(entries: Entries, on_its_side: bool = False) -> str:
    names = list(dict.fromkeys(name for entry in entries for name in scores_in(entry)))
    lines = [["", *(f"Completion {entry['completion']}" for entry in entries)]]
    lines += [[name, *(str(entry.get(name, "")) for entry in entries)] for name in names]
    header, *body = lines if on_its_side else zip(*lines, strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *body])


def keyed(entries: Entries) -> str:
    return "{" + ", ".join(f'"Completion {entry["completion"]}": {json.dumps(entry)}' for entry in entries) + "}"


FORMS: dict[str, Callable[[Entries], str]] = {
    "as asked": lambda entries: json.dumps({"reasoning": "", "ratings": entries}),
    "pretty": lambda entries: json.dumps({"ratings": entries}, indent=2),
    "fenced": lambda entries: f"```json\n{json.dumps({'ratings': entries}, indent=4)}\n```",
    "a bare list": json.dumps,
    "one object a line": lambda entries: "\n".join(map(json.dumps, entries)),
    "a Python dict": lambda entries: repr({"ratings": entries}),
    "commas too many": lambda entries: json.dumps({"ratings": entries}).replace("}", ",}").replace("]", ",]"),
    "typographic": lambda entries: re.sub(r'"([^"]*)"', r"“\1”", json.dumps(entries)),
    "text": lambda entries: json.dumps([{name: str(value) for name, value in e.items()} for e in entries]),
    "commented": lambda entries: json.dumps(entries, indent=1).replace(",\n", ", // so it is\n"),
    "keyed": keyed,
    "lines": as_lines,
    "a table": as_table,
    "a table on its side": lambda entries: as_table(entries, on_its_side=True),
}


FORM = st.sampled_from(list(FORMS))


@given(form=FORM, data=st.data(), ratings=RATINGS, before=PROSE, after=PROSE)
@settings(max_examples=200)
def test_the_form_does_not_matter(
    form: str, data: st.DataObject, ratings: list[dict[str, int]], before: str, after: str
) -> None:
    entries = [dict(data.draw(st.permutations(list(e.items())))) for e in data.draw(st.permutations(written(ratings)))]
    text = f"{before}\n\n{FORMS[form](entries)}\n\n{after}"
    assert [rated.scores for rated in parse_reply(text, len(ratings), RUBRIC).ratings] == ratings


@given(form=FORM, data=st.data(), ratings=RATINGS)
@settings(max_examples=200)
def test_a_rating_too_few_or_too_many_is_refused(form: str, data: st.DataObject, ratings: list[dict[str, int]]) -> None:
    entries = written(ratings)
    place = data.draw(st.integers(0, len(entries) - 1))
    match data.draw(st.sampled_from(["drop", "repeat", "renumber", "drop a score", "repeat a score"])):
        case "drop":
            del entries[place]
        case "repeat":
            entries.insert(data.draw(st.integers(0, len(entries))), entries[place])
        case "renumber":  # now one is rated twice, or one that was not shown
            other = data.draw(st.integers(0, len(entries) + 3).filter(lambda number: number != place + 1))
            entries[place]["completion"] = other
        case "drop a score":
            del entries[place][data.draw(st.sampled_from(NAMES))]
        case "repeat a score":
            entries[place]["Verbose"] = data.draw(st.integers(0, 4))
    with pytest.raises(ReplyError):
        parse_reply(FORMS[form](entries), len(ratings), RUBRIC)


@given(form=FORM, data=st.data(), ratings=RATINGS)
@settings(max_examples=300)
def test_whatever_is_cut_out_no_score_changes(form: str, data: st.DataObject, ratings: list[dict[str, int]]) -> None:
    text = f"Thoughts.\n{FORMS[form](written(ratings))}\nEnd."
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    try:
        parsed = parse_reply(text[:start] + text[end:], len(ratings), RUBRIC)
    except ReplyError:
        return
    assert [rated.scores for rated in parsed.ratings] == ratings


@given(form=FORM, scores=st.lists(st.integers(1, 10), min_size=2, max_size=2), data=st.data())
@settings(max_examples=200)
def test_half_of_a_ten_is_not_a_one(form: str, scores: list[int], data: st.DataObject) -> None:
    ten = Rubric(name="ten", sha256="", attributes={"detail": Scale(low=1, high=10), "truth": Scale(low=1, high=10)})
    expected = dict(zip(["detail", "truth"], scores, strict=True))
    text = FORMS[form]([{"completion": 1, **expected}]).replace("/4", "/10")
    try:
        parsed = parse_reply(text[: data.draw(st.integers(0, len(text)))], 1, ten, cut_off=True)
    except ReplyError:
        return
    assert parsed.ratings[0].scores == expected


PIECES = [
    "[", "]", "{", "}", ",", ":", "|", "\n", " ", '"', "'", "“", "”", "\\", "//", "/*", "*/", "#", "`" * 3, "<think>",
    "</think>", "Completion 2:", "completion A", '"completion": 1', '"ratings"', "Helpfulness: ", "verbosity", "---",
    "3", "4", "10", "3.5", "-1", "3/4", "N/A", "NaN", "null", "\\ud83d", "\x00", '{"completion": 1, "helpfulness": 4, ',
    '"correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}',
]  # fmt: skip


@given(text=st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=40).map("".join), n=st.integers(1, 4))
@settings(max_examples=400)
def test_any_text_gives_scores_within_the_scale_or_a_reply_error(text: str, n: int) -> None:
    try:
        parsed = parse_reply(text, n, RUBRIC, completions=[text[:9]] * n)
    except ReplyError:
        return
    assert len(parsed.ratings) == n
    for rated in parsed.ratings:
        RUBRIC.check(rated.scores)
        f"{parsed.reasoning}{rated.rationale}".encode()  # no half characters, which no file could hold


@given(
    text=st.text(max_size=100) | st.lists(st.sampled_from([*PIECES, '"preference"', "first", "Winner: 1"])).map("".join)
)
def test_any_text_gives_one_preference_or_a_reply_error(text: str) -> None:
    try:
        preference = parse_reply(text, 2, RUBRIC, pairwise=True).preference
    except ReplyError:
        return
    assert preference in ("first", "second", "tie")


HEAPS = ["[{", "[[]", "{'", '{"a":{', '{"[[[[ ', '["[",', '["[1,","', "[/*", '{"a":1} ', '{"a": "', "word ", "\n", " "]
HEAPS += ["(", "`", "|\n", "| a ", "-", "<think>", "helpfulness: ", "Helpfulness: 4", "score ", "Completion 1: "]


@pytest.mark.parametrize("piece", [*HEAPS, "preference: "])
def test_no_text_takes_long(piece: str) -> None:
    text = "Preference: " + piece * (200_000 // len(piece)) + "x"
    started = time.process_time()
    for pairwise in (False, True):
        with pytest.raises(ReplyError):
            parse_reply(text, 2, RUBRIC, pairwise=pairwise)
    assert time.process_time() - started < 2.0  # two readings of 200 kB
