"""What a report says of evaluation questions that stand in the training data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image as Pillow
from PIL import ImageDraw

from align.console import Console
from align.recipe import load_recipe
from align.report.contamination import contamination, overlap_html, overlap_lines
from align.runner import Runner
from align.stages import STAGES
from annotate.jsonl import dump_line
from annotate.records import Completion, Example, Image, PreferencePair, Prompt, Turn

LONG = "Which of the two towers in this engraving of the old harbour throws the longer shadow at noon?"
RECIPE = """
model: {root}/model
prompts: {{file: {root}/prompts.jsonl, image_root: {root}/images}}
sample: {{}}
annotate: {{backend: rules}}
pairs: {{}}
dpo: {{}}
rejection: {{}}
evaluate: {{folder: {root}/bench, suites: [text_instructions, open_visual, choice]}}
report: {{}}
runs: {root}/runs
name: small
"""


def image(root: Path, name: str, shapes: list[tuple[int, int, int, int]], size: int = 96) -> Image:
    """A picture of rectangles, drawn at 96 pixels and kept at `size`."""
    picture = Pillow.new("RGB", (96, 96), "white")
    for i, box in enumerate(shapes):
        ImageDraw.Draw(picture).rectangle(box, fill=("black", "grey")[i % 2])
    (root / "images").mkdir(exist_ok=True)
    picture.resize((size, size)).save(root / "images" / name)
    return Image(path=name, sha256=hashlib.sha256((root / "images" / name).read_bytes()).hexdigest())


def prompt(text: str, *images: Image) -> Prompt:
    return Prompt.of((Turn(role="user", text="<image>\n" * len(images) + text, images=images),))


def pair(asked: Prompt) -> PreferencePair:
    good, bad = (
        Completion.of(prompt_id=asked.id, model="m", index=i, text=t) for i, t in enumerate(("The left.", "No."))
    )
    return PreferencePair.of(prompt=asked, chosen=good, rejected=bad, margin=3.0, rule="r")


def question(suite: str, key: str, asked: Prompt) -> dict:
    shown = asked.turns[0].text.removeprefix("<image>\n")
    options = ["left", "right"] if suite == "choice" else []
    row = {"text": shown, "kind": "k", "answer": "left", "accepted": {"word": "left"}, "options": options}
    return {"id": key, "suite": suite, "prompt": asked.to_json(), "questions": [row]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training: a text, and two questions about images. Evaluation: the text again, the images again, neither."""
    harbour = image(tmp_path, "harbour.png", [(4, 8, 40, 90), (50, 30, 70, 60), (20, 70, 90, 80)])
    resized = image(tmp_path, "resized.png", [(4, 8, 40, 90), (50, 30, 70, 60), (20, 70, 90, 80)], size=120)
    other = image(tmp_path, "other.png", [(60, 2, 94, 20), (2, 60, 30, 94), (40, 40, 55, 94)])
    plain = "Words: sun, map. Say the last of these words, then the first one, and nothing else."
    (tmp_path / "model").mkdir()
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(root=tmp_path))
    trained = [pair(prompt(plain)), pair(prompt(LONG, harbour))]
    best = [Example.of(prompt=prompt("What is this?", other), completion="A house.", source="rejection")]
    made = tmp_path / "runs/small"
    for folder in (made / "pairs", made / "evaluate", tmp_path / "bench"):
        folder.mkdir(parents=True)
    (made / "pairs/preference.jsonl").write_text("".join(map(dump_line, trained)))
    (made / "pairs/rejection.jsonl").write_text("".join(map(dump_line, best)))
    rows = {
        "text_instructions": [prompt(plain), prompt("Name the colour of a clear sky.")],
        "open_visual": [prompt(LONG, resized), prompt(LONG, other), prompt("How many boats are there?", other)],
        "choice": [prompt("Left or right?", harbour)],
    }
    for suite, asked in rows.items():
        lines = [question(suite, f"{suite} {i}", p) for i, p in enumerate(asked)]
        if suite == "text_instructions":  # a follow-up that stands in the training too is no question asked again
            lines[1]["questions"].append(lines[0]["questions"][0])
        (tmp_path / f"bench/{suite}.jsonl").write_text("".join(map(dump_line, lines)))
    files = {f"benchmark {f.name}": hashlib.sha256(f.read_bytes()).hexdigest() for f in (tmp_path / "bench").iterdir()}
    (made / "evaluate/manifest.json").write_text(json.dumps({"inputs": files}))
    return tmp_path


def found_in(root: Path) -> dict:
    recipe = load_recipe(root / "recipe.yaml")
    return contamination(Runner(recipe, Console()).context(STAGES["report"]), [])


def counts(row: dict) -> list[int]:
    return [row[key] for key in ("n", "exact", "ngrams", "same_image", "near_image", "asked_again")]


def test_each_suite_is_looked_for_in_all_that_was_trained_on(root):
    found = found_in(root)
    assert (found["trained_on"], found["n_prompts"], found["n_images"]) == (["preference", "rejection"], 3, 2)
    by_file = {row["file"]: row for row in found["sets"]}
    assert counts(by_file["text_instructions.jsonl"]) == [2, 1, 0, 0, 0, 1]
    # the resized harbour with its question is asked again; the question about another image is not, nor the other image
    # with another question
    assert counts(by_file["open_visual.jsonl"]) == [3, 2, 0, 2, 1, 1]
    assert counts(by_file["choice.jsonl"]) == [1, 0, 0, 1, 0, 0]
    assert "not known here: not checked" in found["notes"][0]


def test_what_cannot_be_checked_is_said(root):
    with (root / "bench/choice.jsonl").open("a") as stream:
        stream.write("\n")
    (root / "bench/text_instructions.jsonl").unlink()
    found = found_in(root)
    assert [row.get("why", "") for row in found["sets"]] == [
        "is no longer there",
        "",
        "has changed since the evaluation",
    ]
    assert overlap_lines(found) == [
        "evaluation questions in the training data (3 prompts of preference, rejection):",
        "  text, two turns: not checked (text_instructions.jsonl is no longer there)",
        "  open visual: 1 of 3 asked again; text 2 exact, 0 by n-grams; image 2 same, 1 near",
        "  multiple choice: not checked (choice.jsonl has changed since the evaluation)",
    ]
    page = overlap_html(found)
    assert 'id="contamination"' in page and "not checked: choice.jsonl has changed" in page


def test_a_run_that_trains_on_nothing_says_nothing(root):
    text = (root / "recipe.yaml").read_text()
    (root / "recipe.yaml").write_text(text.replace("dpo: {}\nrejection: {}\n", ""))
    assert found_in(root) == {} and overlap_lines({}) == [] and overlap_html({}) == ""


def test_published_files_are_searched_for_as_well(root):
    labels = root / "pope"
    labels.mkdir()
    asked = {"question_id": 1, "image": "harbour.png", "text": LONG, "label": "yes"}
    others = [asked | {"question_id": i, "text": f"Are there {i} cats?", "label": "no"} for i in range(2, 13)]
    (labels / "coco_pope_random.json").write_text("".join(map(dump_line, [asked, *others])))
    text = (root / "recipe.yaml").read_text().replace("[text_instructions, open_visual, choice]", "[pope]")
    files = f"files: {{pope: {{labels: {labels}, images: {root}/images}}}}, "
    (root / "recipe.yaml").write_text(text.replace("evaluate: {", f"evaluate: {{{files}"))
    (row,) = found_in(root)["sets"]
    # what POPE adds to each of its questions ("Answer the question using ...") is the set's own form, and no matter
    assert (row["suites"], counts(row)) == (["pope"], [12, 1, 0, 12, 0, 1])
