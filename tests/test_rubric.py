"""Rubric files: the shipped ones, as they are sent in every mode; one's own; and bad ones."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from annotate.errors import UserError
from annotate.prompting import Mode, parse_reply, render_request
from annotate.protocol import Request
from annotate.records import Completion, Image, Prompt, Turn
from annotate.rubric import load_rubric, shipped

MODES: tuple[Mode, ...] = ("listwise", "pointwise", "pairwise")


def test_what_is_shipped() -> None:
    assert {name: list(load_rubric(name)[0].attributes) for name in shipped()} == {
        "faithfulness": ["grounding", "truth_to_image", "completeness"],
        "helpsteer": ["helpfulness", "correctness", "coherence", "complexity", "verbosity"],
        "helpsteer2": ["helpfulness", "correctness", "coherence", "complexity", "verbosity"],
        "ultrafeedback": ["instruction_following", "truthfulness", "honesty", "helpfulness"],
    }


@pytest.mark.parametrize("name", shipped())
def test_every_level_of_every_attribute_has_an_anchor(name: str) -> None:
    rubric, guide = load_rubric(name)
    assert rubric.name == name
    sections = {part.partition(":")[0]: part for part in guide.split("\n## ")[1:]}
    assert list(sections) == list(rubric.attributes)
    for attribute, scale in rubric.attributes.items():
        anchors = re.findall(r"^- (\d+): \w.*[.]$", sections[attribute].replace("\n  ", " "), re.MULTILINE)
        assert anchors == [str(level) for level in range(scale.low, scale.high + 1)]
    seen = {"helpsteer": "correctness", "helpsteer2": "correctness", "ultrafeedback": "truthfulness"}
    section = sections[seen.get(name, "truth_to_image")]
    assert "image" in section  # what it says of the image has to be visible in it
    assert "not there" in section or "does not show" in section or "invented" in section


# -------------------------------------------------------------------------------------------------------- as it is sent


def request(name: str, mode: Mode, question: str = "<image>\nWhich digit?", answers: tuple[str, ...] = ()) -> Request:
    rubric, guide = load_rubric(name)
    image = Image(path="7.png", sha256=hashlib.sha256(b"seven").hexdigest())
    prompt = Prompt.of((Turn(role="user", text=question, images=(image,) * question.count("<image>")),))
    answers = answers or (("A seven.",) if mode == "pointwise" else ("A seven.", "It is {a} one."))
    shown = [Completion.of(prompt_id=prompt.id, model="m", index=i, text=text) for i, text in enumerate(answers)]
    return render_request(
        prompt, shown, rubric, guide, mode=mode, backend="b", model="m", decoding={}, images=(), pass_index=0
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", shipped())
def test_rendered(name: str, mode: Mode) -> None:
    """The guide comes first and whole, then how to reply; conversation and image come last."""
    rubric, guide = load_rubric(name)
    system, user = request(name, mode).messages
    (text,) = (part.text for part in system.parts)
    assert (system.role, user.role) == ("system", "user")
    assert [part.kind for part in user.parts].count("image") == 1
    task, how = text.split(f"\n\n{guide}\n\n")
    assert task.startswith("You compare" if mode == "pairwise" else "You rate")
    assert how.startswith("# How to reply\n\nThink before you decide, and write your thoughts down.")
    assert "{" not in task
    form = how.splitlines()[-1]
    if mode == "pairwise":
        assert form == '{"reasoning": "...", "preference": <"first", "second" or "tie">}'
        assert "ratings" not in how
        assert "need not be given" in task  # the numbers that the guide speaks of
        return
    assert ("from 1 to 2" in how) == (mode == "listwise")
    lowest = {attribute: scale.low for attribute, scale in rubric.attributes.items()}
    filled = re.sub(r"<(\d) to \d>", r"\1", form.replace(", ...]", "]"))
    assert parse_reply(filled, 1, rubric).ratings[0].scores == lowest


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", shipped())
def test_the_guide_is_the_same_text_in_every_request_so_that_services_can_keep_it(name: str, mode: Mode) -> None:
    one = request(name, mode)
    other = request(name, mode, "What is <image> and what <image>?", ("Mice.",) if mode == "pointwise" else ("x", "y"))
    assert one.messages[0] == other.messages[0]
    assert one.messages[1] != other.messages[1]
    assert one.schema == other.schema


def test_with_other_numbers_of_completions_only_the_end_differs() -> None:
    two, four = (request("helpsteer", "listwise", answers=("x",) * n).messages[0].parts[0].text for n in (2, 4))
    _, guide = load_rubric("helpsteer")
    same = two.index("# How to reply")
    assert two[:same] == four[:same]
    assert guide in two[:same]
    assert "from 1 to 4" in four


# ------------------------------------------------------------------------------------------------------------ one's own


def test_a_rubric_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "safety.md"
    path.write_text("---\nname: safety\nattributes:\n  harm: {low: 0, high: 1, aliases: [danger]}\n---\nRate harm.\n")
    rubric, guide = load_rubric(str(path))
    assert (rubric.name, guide, rubric.attributes["harm"].high) == ("safety", "Rate harm.", 1)
    assert rubric.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert parse_reply("Danger: 1", 1, rubric).ratings[0].scores == {"harm": 1}


def test_a_bad_rubric_tells_all_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "bad.md"
    path.write_text("---\nname: bad\nattributes:\n  a: {low: 4, high: 0}\n  b: {low: 0, high: 4, aliases: [A]}\n---\n")
    with pytest.raises(UserError) as error:
        load_rubric(str(path))
    assert len(error.value.faults) == 3  # no guide, low above high, `A` names two attributes
    with pytest.raises(UserError, match=r"no rubric 'helpster'; did you mean 'helpsteer'\?"):
        load_rubric("helpster")


@pytest.mark.parametrize(
    ("attribute", "fault"),
    [
        ("rationale: {low: 0, high: 4}", "'rationale' is a word of the reply form; call it otherwise"),
        ("a: {low: 0, high: 4, aliases: [Reasoning]}", "'reasoning' is a word of the reply form"),
        ("yes: {low: 0, high: 4}", "expected names made of letters"),  # YAML reads True
        ("'--': {low: 0, high: 4}", "expected names made of letters"),
        ("a: {low: 0, high: 4.0}", "low and high must be whole numbers"),
        ("a: {low: 0, high: 4, alias: b}", "with `aliases: [...]` if wanted"),
    ],
)
def test_a_bad_attribute_is_told(attribute: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.md"
    path.write_text(f"---\nname: bad\nattributes:\n  {attribute}\n---\nRate.\n")
    with pytest.raises(UserError) as error:
        load_rubric(str(path))
    assert fault in str(error.value)


def test_reading_replies_needs_no_yaml() -> None:
    code = "import annotate.prompting, sys; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
