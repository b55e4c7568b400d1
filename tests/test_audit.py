"""`align audit`: a tiny LLaVA and a tiny LLaVA-NeXT against their language model, without a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_llava import ask_about, save_image, save_tiny_language_model, save_tiny_llava, save_tiny_llava_next

from align.cli import main
from annotate.jsonl import dump_line


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two VLMs, their language model, two questions of each kind."""
    root = tmp_path_factory.mktemp("audit")
    save_tiny_llava(root / "llava")
    save_tiny_llava_next(root / "next")
    save_tiny_language_model(root / "lm")
    (root / "images").mkdir()
    (root / "bench").mkdir()
    text = {"text": "Name three fruits.", "kind": "k", "form": "word", "answer": "Apple", "accepted": {"word": "Apple"}}
    rows = {"text_instructions": [], "pope": []}
    for i in range(2):
        said = text | {"text": f"Name {i} fruits."}
        prompt = ask_about(text=said["text"]).to_json()
        rows["text_instructions"].append(
            {"id": f"t{i}", "suite": "text_instructions", "prompt": prompt, "questions": [said]}
        )
        image = save_image(root / "images", f"{i}.png", seed=i)
        yes = {
            "text": "Is there a 7?",
            "kind": "k",
            "answer": "Yes",
            "accepted": {"word": "Yes"},
            "polarity": "positive",
        }
        prompt = ask_about(image, text=yes["text"]).to_json()
        rows["pope"].append({"id": f"p{i}", "suite": "pope", "prompt": prompt, "questions": [yes]})
    for name, lines in rows.items():
        (root / "bench" / f"{name}.jsonl").write_text("".join(map(dump_line, lines)))
    return root


@pytest.mark.parametrize("vlm", ["llava", "next"])
def test_two_families_are_audited_against_their_backbone(world, vlm, tmp_path, capsys):
    arguments = [world / vlm, "--backbone", world / "lm", "--folder", world / "bench", "--max-new-tokens", 4]
    assert main(["audit", *map(str, arguments), "--out", str(tmp_path / vlm), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found["verdicts"]["models"]) == ["backbone", "vlm"]
    # text_noisy_image lacks its images here, so it is left out; the control comes with pope
    assert [s["suite"] for s in found["verdicts"]["suites"]] == ["text_instructions", "pope", "pope_blank"]
    assert found["verdicts"]["regression"][0]["suite"] == "text_instructions"
    told = [w for w in found["verdicts"]["warnings"] if "chat template of its own processor" in w]
    assert bool(told) == (vlm == "next")
    page = (tmp_path / vlm / "report/report.html").read_text(encoding="utf-8")
    assert f"Audit of {vlm}" in page
    assert main(["run", str(tmp_path / vlm / "audit.yaml")]) == 0  # the recipe it wrote is the one it ran
    assert "evaluate: up to date" in capsys.readouterr().out


def test_without_a_backbone_there_are_scores_and_no_verdict(world, tmp_path, capsys):
    arguments = [world / "llava", "--folder", world / "bench", "--suites", "text_instructions", "--max-new-tokens", 4]
    assert main(["audit", *map(str, arguments), "--out", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["verdicts"]["regression"] == [] and {m["model"] for m in found["metrics"]} == {"vlm"}
    assert found["sentence"] == "No backbone was named: nothing is said of a regression."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lm", "--folder", "bench"], "nothing that prepares images. A language model is given by --backbone"),
        (["nowhere", "--folder", "bench"], "nowhere: no such folder"),
        (["llava", "--backbone", "gone", "--folder", "bench"], "--backbone: gone: no such folder"),
        (["llava", "--backbone", "llava", "--folder", "bench"], "is the VLM itself"),
        (["llava", "--folder", "bench", "--suites", "popp"], "--suites: no suite 'popp'"),
        (["llava", "--folder", "bench", "--limit", "0"], "--limit: 0 is impossible"),
        (["llava", "--folder", "images"], "images holds no benchmark that can be asked"),
        (["llava", "--folder", "benches"], "--folder: benches is no folder"),
        (["llava", "--folder", "bench", "--suites", "popes"], "did you mean 'pope'"),
        (["bench", "--folder", "bench"], "bench: no config.json"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(world, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(world)
    assert main(["audit", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
