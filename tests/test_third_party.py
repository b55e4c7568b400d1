"""An annotator from another distribution, installed for real and found through its entry point alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

RUN = """
import json, sys
from pathlib import Path
from tempfile import TemporaryDirectory
from align.settings import Annotate
from annotate.records import Completion, Prompt, Turn
from annotate.run import AnnotateWork

prompts = [
    Prompt.of((Turn(role="user", text="Which colour?"),), reference="The seven is red"),
    Prompt.of((Turn(role="user", text="Without a reference?"),)),
]
completions = [
    Completion.of(prompt_id=p.id, model="m", index=i, text=text)
    for p in prompts
    for i, text in enumerate(["the nine is blue", "The seven is red"])
]
work = AnnotateWork(
    prompts=prompts,
    completions=completions,
    settings=Annotate(backend="overlap", options=json.loads(sys.argv[1])),
    seed=0,
    read_image=lambda image: b"",
)
lines = {}
with TemporaryDirectory() as folder:
    work.execute(work.units, lines.__setitem__, Path(folder), lambda done, total, note="": None)
compiled = work.compile(lines, Path.cwd())
(record,) = compiled.files["annotated.jsonl"]
(failure,) = compiled.files["failures.jsonl"]
print(json.dumps({
    "scores": [record.scores()[c.id]["helpfulness"] for c in record.completions],
    "backend": record.annotations[0].backend,
    "model_version": record.annotations[0].model_version,
    "failure": [failure.reason.value, failure.detail.split(": ")[-1]],
}))
"""

MAKE = """
import sys
from annotate.backends.registry import installed, make_annotator
from annotate.errors import UserError

print(*installed())
try:
    make_annotator(sys.argv[1], "", {})
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the distribution, as a user would, but beside our environment."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(ROOT / "tests" / "third_party")], check=True)
    return target


def python(code: str, *arguments: str, path: Path | None = None) -> str:
    """What a fresh interpreter prints, with `path` on its path."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_it_annotates_by_its_name_and_options(plugin: Path) -> None:
    def run(**options: Any) -> Any:
        return json.loads(python(RUN, json.dumps(options), path=plugin))

    assert run() == {
        "scores": [2.0, 4.0],  # "the nine is blue" has 2 of the 4 words, the reference has all
        "backend": "overlap",
        "model_version": "overlap-1.2",
        "failure": ["blocked", "overlap needs a reference"],
    }
    assert run(ignore_case=False)["scores"] == [1.0, 4.0]  # "the" is not "The"


def test_it_is_listed_where_it_is_installed(plugin: Path) -> None:
    assert "overlap" in python(MAKE, "rules", path=plugin).split()
    here = python(MAKE, "overlap")
    assert "no annotator 'overlap'" in here


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "overlap-remote",
            "annotator 'overlap-remote' needs the library 'a_client_library_that_nobody_has', which is not installed: "
            "pip install 'mmalign-overlap[overlap-remote]'",
        ),
        ("overlap-broken", "annotator 'overlap-broken' of mmalign-overlap 1.2.0 fails to load: AttributeError"),
        ("overlap-other", "annotator 'overlap-other' of mmalign-overlap 1.2.0 is no Annotator"),
        ("overlpa", "no annotator 'overlpa'; did you mean 'overlap'?  Installed: "),
    ],
)
def test_what_is_wrong_with_a_plug_in_is_said(plugin: Path, name: str, message: str) -> None:
    assert message in python(MAKE, name, path=plugin)
