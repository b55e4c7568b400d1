"""The demo world: the same from the same seed, balanced, its splits apart, its keys true."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.train.rows import Conversation, Patches
from annotate.records import Prompt

ROOT = Path(__file__).resolve().parent.parent
SUITES = ("text_instructions", "open_visual", "pope", "choice")


def prepare(out: Path, seed: int = 0) -> Path:
    script = str(ROOT / "data" / "prepare_demo.py")
    command = [sys.executable, script, "--out", str(out), "--seed", str(seed), "--small"]
    subprocess.run(command, check=True, capture_output=True)
    return out


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("world"))


def bench(world: Path, split: str) -> list[dict[str, Any]]:
    return [row for suite in SUITES for row in rows(world / "bench" / split / f"{suite}.jsonl")]


def test_the_seed_decides_everything(world: Path, tmp_path: Path) -> None:
    assert digest(prepare(tmp_path / "again")) == digest(world)
    assert digest(prepare(tmp_path / "other", seed=1)) != digest(world)


def test_every_row_reads_as_its_record(world: Path) -> None:
    for name in ("language", "tune"):
        assert all(Conversation.from_json(row).turns for row in rows(world / f"{name}.jsonl"))
    assert all(len(Patches.from_json(row).words) == 9 for row in rows(world / "connect.jsonl"))
    for row in (*rows(world / "prompts.jsonl"), *(r["prompt"] for r in bench(world, "dev") + bench(world, "test"))):
        for image in Prompt.from_json(row).images:
            assert hashlib.sha256((world / "images" / image.path).read_bytes()).hexdigest() == image.sha256


@pytest.mark.parametrize("split", ["dev", "test"])
def test_yes_and_no_are_equally_often_true(world: Path, split: str) -> None:
    polarity = [row["questions"][0]["polarity"] for row in rows(world / "bench" / split / "pope.jsonl")]
    assert polarity.count("positive") == polarity.count("negative") == len(polarity) // 2


def test_the_splits_share_no_image_and_no_context(world: Path) -> None:
    def seen(text: str) -> set[str]:
        """Hashes of images, and the contexts ("Words: ...", "Scene: ...") that questions are about."""
        return {line for line in text.replace('"', "\n").split("\n") if len(line) == 64 and line.isalnum()} | {
            part.split(".")[0] for part in text.replace('"', "\n").split("\n") if part.startswith(("Words:", "Scene:"))
        }

    train = set().union(*(seen((world / f"{n}.jsonl").read_text()) for n in ("language", "connect", "tune")))
    splits = {
        "train": train,
        "prompts": seen((world / "prompts.jsonl").read_text()),
        "dev": set().union(*(seen(json.dumps(row)) for row in bench(world, "dev"))),
        "test": set().union(*(seen(json.dumps(row)) for row in bench(world, "test"))),
    }
    names = list(splits)
    assert all(len(found) > 20 for found in splits.values())
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not splits[one] & splits[other], (one, other)


def test_the_reference_of_a_prompt_makes_all_true_claims_and_no_false_one(world: Path) -> None:
    for row in rows(world / "prompts.jsonl"):
        prompt = Prompt.from_json(row)
        assert prompt.reference is not None
        said = prompt.reference.casefold().replace(",", " ").rstrip(".").split()
        said = [word for word in said if not (word.endswith(".") and word[:-1].isdigit())]  # "2." of a numbered list
        for claim in prompt.meta["answer_key"]["claims"]:
            claimed = [word for word in said if word in claim["vocabulary"]]
            if claim["ordered"]:
                assert claimed == claim["truth"], prompt
            else:
                assert set(claimed) - set(claim["given"]) == set(claim["truth"]), prompt


def test_the_accepted_answer_is_among_the_options_and_in_the_stated_form(world: Path) -> None:
    for row in bench(world, "dev"):
        for question in row["questions"]:
            assert question["form"] is None or question["form"] in question["accepted"]
            options = question["options"]
            assert not options or (len(options) == 4 and question["answer"] in options)
