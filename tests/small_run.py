"""Small runs for the tests of runner and command line: real recipes on the torch-free part of the road.

`teach` with the `rules` annotator needs prompts and nothing else; a pace makes it slow enough to be killed. `annotate`
and `pairs` work on hand-written completions, handed over as a finished stage `sample`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from align.base import Models
from align.recipe import Recipe, load_recipe
from align.stages import STAGES
from align.state import stage_identity
from align.workspace import StageFolder
from annotate.jsonl import write_records
from annotate.records import Completion, Manifest, Prompt, Turn, sha256_of
from annotate.stage import Compiled

ROOT = Path(__file__).parents[1]
KEY = {"form": "sentence", "claims": [{"vocabulary": ["red", "blue", "green"], "truth": ["red"]}]}

TEACH = """\
name: small
prompts: {{file: {folder}/prompts.jsonl}}
teach: {{backend: rules{pace}}}
"""

ANNOTATE = """\
name: small
model: {folder}/model
prompts: {{file: {folder}/prompts.jsonl}}
sample: {{n: 3}}
annotate: {{backend: rules}}
pairs: {{min_margin: 1}}
"""


def prompts(n: int) -> list[Prompt]:
    turns = [(Turn(role="user", text=f"Which colour has box {i}?"),) for i in range(n)]
    return [Prompt.of(t, source="boxes", reference="Box is red.", meta={"answer_key": KEY}) for t in turns]


def teach_recipe(folder: Path, n: int = 6, *, pace: float | None = None) -> Path:
    """A recipe of one stage; `pace` is in requests per minute."""
    write_records(folder / "prompts.jsonl", prompts(n))
    slow = f", requests_per_minute: {pace}" if pace else ""
    (folder / "small.yaml").write_text(TEACH.format(folder=folder, pace=slow))
    return folder / "small.yaml"


def annotate_recipe(folder: Path, n: int = 6) -> Path:
    """A recipe whose stage `sample` is finished: three completions per prompt, good, bad and empty-handed."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    write_records(folder / "prompts.jsonl", prompts(n))
    (folder / "small.yaml").write_text(ANNOTATE.format(folder=folder))
    recipe = load_recipe(folder / "small.yaml", [f"runs={folder / 'runs'}"])
    texts = ("The box is red.", "The box is blue.", "Maybe.")
    completions = [
        Completion.of(prompt_id=prompt.id, model="vlm", index=i, text=text)
        for prompt in prompts(n)
        for i, text in enumerate(texts)
    ]
    finish(recipe, "sample", {"completions.jsonl": completions, "failures.jsonl": []}, units=n)
    return folder / "small.yaml"


def finish(recipe: Recipe, name: str, files: dict[str, Any], *, units: int = 1) -> None:
    """Leave a stage as the runner leaves it, with these outputs."""
    identity, inputs = stage_identity(recipe, STAGES[name], Models(recipe))
    folder = StageFolder(recipe.folder, name)
    folder.begin(units)
    outputs = folder.stage_outputs(Compiled(files=files, units=units, outputs=units, failures=0))
    manifest = Manifest(
        stage=name,
        identity_sha256=sha256_of(identity),
        identity=identity,
        inputs=inputs,
        outputs=outputs,
        units=units,
        failures=0,
        funnel={},
    )
    folder.publish(manifest, None, keep_old=True)


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """`align ...` as a process of its own, from the folder of the runs."""
    prepare = options.pop("preexec_fn", lambda: None)

    def before() -> None:
        # A test run started in the background of a script inherits Ctrl-C as ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        prepare()

    return subprocess.Popen(
        [sys.executable, "-m", "align", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(options.pop("path", "")),
        preexec_fn=before,
        **options,
    )


def align(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """`align ...` to its end."""
    process = start(*arguments, **options)
    out, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, errors)


def environment(path: str) -> dict[str, str]:
    """Ours to import wherever the process runs, and `path` before it."""
    found = os.pathsep.join(filter(None, [path, str(ROOT)]))
    return {**os.environ, "PYTHONPATH": found, "HF_HUB_OFFLINE": "1"}


def outputs(stage: Path) -> dict[str, str]:
    """The compiled files of a stage with their hashes."""
    manifest = json.loads((stage / "manifest.json").read_text())
    return {name: hashlib.sha256((stage / name).read_bytes()).hexdigest() for name in sorted(manifest["outputs"])}
