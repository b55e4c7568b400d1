"""docs/benchmarks.md: every benchmark of `align score` has its section, its proof, and commands that are taken."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from align.benchmarks.scorers import SCORERS
from align.commands import score

PAGE = (Path(__file__).parents[1] / "docs/benchmarks.md").read_text(encoding="utf-8")
SECTIONS = [section for section in PAGE.split("\n## ")[1:] if "align score" in section]
COMMANDS = re.findall(r"^align score (.*)$", PAGE, flags=re.M)


@pytest.mark.parametrize("name", SCORERS)
def test_every_benchmark_says_what_proves_it(name):
    (section,) = [section for section in SECTIONS if f"`{name}`" in section.split("\n|", 1)[0]]
    assert "| proof | " in section


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_is_taken(command):
    parser = argparse.ArgumentParser()
    score.arguments(parser)
    options = parser.parse_args(shlex.split(command))
    scorer = SCORERS[options.benchmark]
    given = {name for name in ("answers", "questions", "labels", "judgments") if getattr(options, name)}
    assert set(scorer.needs) <= given <= {*scorer.needs, *scorer.takes}
    assert not options.parser or options.parser in scorer.parsers
