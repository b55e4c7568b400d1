"""recipes/own_data.yaml as the README says: real photographs in a LLaVA-format file, through the whole road."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def test_photographs_go_the_whole_road(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    subprocess.run([sys.executable, "data/prepare_photos.py", "--out", str(photos)], cwd=ROOT, check=True)
    changes = [f"runs={tmp_path}", f"prompts.file={photos / 'llava.json'}", f"prompts.image_root={photos / 'images'}"]
    command = [sys.executable, "-m", "align", "run", "recipes/own_data.yaml", *changes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "own-data"
    first = json.loads((run / "sample/completions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert len((run / "sample/completions.jsonl").read_text(encoding="utf-8").splitlines()) == 4 * 41
    assert first["schema"] == "completion/1"
    pairs = [json.loads(line) for line in (run / "pairs/preference.jsonl").read_text(encoding="utf-8").splitlines()]
    assert pairs and all(pair["prompt"]["turns"][0]["images"] for pair in pairs)
    assert (run / "dpo/adapter/adapter_model.safetensors").exists()
    page = (run / "report/report.html").read_text(encoding="utf-8")
    assert "Photographs" in page and "data:image" in page
