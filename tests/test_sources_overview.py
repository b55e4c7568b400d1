"""What is said about the sources: the table of data/README.md, the origins of the fixtures, --help, --json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from source_scripts import FIXTURES, ROOT, prepare
from test_sources import EVERY


def test_readme_lists_every_source_and_every_fixture_names_its_origin() -> None:
    from list_sources import END, START, all_sources, table

    readme = (ROOT / "data/README.md").read_text(encoding="utf-8")
    assert readme.partition(START)[2].partition(END)[0].strip() == table().strip(), "run data/list_sources.py --write"
    assert len(all_sources()) == 16
    origins = (FIXTURES / "README.md").read_text(encoding="utf-8")
    for path in FIXTURES.iterdir():
        assert path.name == "README.md" or f"`{path.name}/" in origins, f"{path.name}: where was its layout read?"
    assert {name for name, _, _ in EVERY} | {"orca"} == {source.name for source in all_sources().values()}


def test_help_has_examples_and_the_licence(capsys: pytest.CaptureFixture[str]) -> None:
    from list_sources import all_sources
    from source_command import main

    for script, source in all_sources().items():
        with pytest.raises(SystemExit) as ended:
            main(source, ["--help"])
        told = capsys.readouterr().out
        assert ended.value.code == 0 and "examples:" in told and source.licence[:40] in " ".join(told.split()), script


def test_json_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert prepare("arc", out, "--folder", FIXTURES / "arc", "--json") == 0
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "result" and event["counts"]["taken"] == 4
