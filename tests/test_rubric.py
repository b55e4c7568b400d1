"""Rubric files: the shipped one, one's own, and bad ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from annotate.errors import UserError
from annotate.prompting import parse_reply
from annotate.rubric import load_rubric, shipped

NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def test_the_shipped_rubric_has_an_anchor_for_every_level() -> None:
    assert shipped() == ["helpsteer"]
    _, guide = load_rubric("helpsteer")
    for name in NAMES:
        section = guide.split(f"## {name}:")[1].split("\n## ")[0]
        assert [line[:4] for line in section.splitlines() if line.startswith("- ")] == [f"- {i}:" for i in range(5)]
    assert "image" in guide.split("## correctness:")[1].split("\n## ")[0]


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
