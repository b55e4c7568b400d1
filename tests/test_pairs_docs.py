"""What docs/pairs.md says: its commands run, its code runs, its figures are those that come out."""

import dataclasses
import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from pair_groups import NAMES
from ray_rows import rows_of

from align.cli import main
from align.pairs import Pairs, conditioning

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/pairs.md").read_text(encoding="utf-8")


def blocks(mark: str) -> list[str]:
    found = re.findall(rf"<!-- {mark} -->\n```\w+\n(.*?)```", PAGE, flags=re.S)
    assert found, mark
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in ("pairs_golden/annotated.jsonl", "formats/ultrafeedback.jsonl", "formats/llava_human_preference.json"):
        shutil.copy(ROOT / "tests" / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_and_leave_the_files_and_the_funnel_of_the_page(here):
    for line in "".join(blocks("command")).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "align" and main(arguments) == 0, line
    named = set(re.findall(r"`(\w+\.(?:jsonl?|md))`", PAGE[: PAGE.index("## The rule")])) - {"annotated.jsonl"}
    assert {path.name for path in (here / "out").iterdir()} == named
    funnel = json.loads((here / "out/funnel.json").read_text())
    for key, value in json.loads(blocks("funnel")[0]).items():
        assert funnel[key] == value
    assert (here / "balanced/hindsight.jsonl").read_text().count("\n") > 0
    for made in ("weighted", "text", "human"):
        assert (here / made / "preference.jsonl").read_text().count("\n") > 0
    assert '"margin":null' in (here / "human/preference.jsonl").read_text()


def test_the_code_runs(here):
    namespace: dict = {}
    for code in blocks("python"):
        exec(code, namespace)
    assert len(namespace["made"]) == 10
    assert isinstance(namespace["settings"].length_gap, tuple)


def test_the_code_for_datasets_runs(here):
    pytest.importorskip("datasets")
    namespace: dict = {}
    exec(blocks("datasets")[0], namespace)
    assert set(namespace["rows"]["set"]) == {"preference", "steerlm", "rejection", "failures"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_the_code_for_ray_runs(here):
    rows = rows_of(blocks("ray")[0], here)
    assert {row["set"] for row in rows} == {"preference", "steerlm", "rejection", "failures"}


def test_every_option_has_its_row_and_no_row_is_of_none():
    table = PAGE[PAGE.index("| option |") : PAGE.index("Scores of several passes")]
    named = re.findall(r"^\| (`.*?`) \|", table, flags=re.M)
    options = {name.strip("` ") for row in named for name in row.split(",")}
    assert options == {field.name for field in dataclasses.fields(Pairs)}
    defaults = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", table, flags=re.M))
    for name, default in defaults.items():
        expected = Pairs(**{name: default}) if name == "score" else None
        assert getattr(Pairs(), name) == (expected.score if expected else type(getattr(Pairs(), name))(default))


def test_the_templates_are_rendered_as_shown():
    scores = dict(zip(NAMES, (4, 3, 4, 1, 1), strict=True))
    for line in blocks("templates")[0].splitlines():
        template, shown = re.split(r"\s{2,}", line)
        settings = Pairs(steerlm_template=template.removeprefix("steerlm_template: "))
        assert conditioning(scores, settings).strip() == shown
