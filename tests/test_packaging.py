"""The wheel: what is in it, and that it does the light work in an environment without torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and its base dependencies alone."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run(
        [folder / "bin/python", "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder / "bin"


def test_the_wheel_holds_our_two_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"align", "annotate"}
    for needed in ("annotate/rubrics/helpsteer.md", "annotate/prices.yaml", "align/train/trl_fields.json"):
        assert needed in names
    assert any(n.startswith("align/report/") and n.endswith(".html") for n in names)


def test_no_other_distribution_provides_our_packages(light: Path) -> None:
    code = (
        "from importlib.metadata import packages_distributions as p; print(sorted(set(p()['align'] + p()['annotate'])))"
    )
    done = subprocess.run([light / "python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['mmalign']"


def test_the_light_install_has_no_torch_and_builds_pairs_in_the_words_of_the_readme(
    light: Path, tmp_path: Path
) -> None:
    absent = subprocess.run([light / "python", "-c", "import torch"], capture_output=True)
    assert absent.returncode != 0
    shutil.copy(ROOT / "tests/formats/helpsteer.jsonl", tmp_path / "helpsteer.jsonl")
    (block,) = re.findall(r"<!-- pairs-alone -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    commands = [words for line in block.splitlines() if (words := line.split("#")[0].split())]
    assert [words[0] for words in commands] == ["pip", "align", "align", "align"]
    for words in commands[1:]:
        done = subprocess.run([light / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
    assert len((tmp_path / "out/preference.jsonl").read_text().splitlines()) >= 1
    assert "pairs" in (tmp_path / "out/preference.jsonl.doctor/doctor.html").read_text()
    assert json.loads((tmp_path / "dpo.json").read_text())


def test_help_of_the_light_install_names_the_stages(light: Path) -> None:
    done = subprocess.run([light / "align", "--help"], capture_output=True, text=True, check=True)
    for word in "sample annotate teach pairs dpo steerlm rejection sft evaluate report status estimate".split():
        assert word in done.stdout
