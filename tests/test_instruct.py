"""From a language model and a CLIP to a tuned VLM: what learns, what stays bit for bit, on which rows and words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from launched import ended, start
from safetensors.torch import load_file
from tiny_llava import ask_about, save_image
from tiny_parts import save_clip, save_language_model

from align.analyses.counts import read_count
from align.cli import main
from align.models.encode import Encoder
from align.models.load import load_processor, load_vlm
from align.train.file_rows import read_file_rows, without_images
from align.train.lora_rows import collate_examples
from align.train.rows import Conversation
from annotate.errors import UserError
from annotate.jsonl import dump_line, read_rows
from annotate.records import Example, Prompt, Record, Turn, replace


def save_rows(path: Path, rows: Sequence[Record]) -> Path:
    path.write_text("".join(dump_line(row.to_json()) for row in rows), encoding="utf-8")
    return path


def instructions(root: Path, n_images: int = 4, n_text: int = 4) -> list[Record]:
    """Half of them about a picture each; every other of those a dialogue of two questions."""
    rows: list[Record] = []
    for i in range(n_images):
        prompt = ask_about(save_image(root, f"i{i}.png", seed=i), text=f"Which digit is {i}?")
        if i % 2:
            more = (Turn(role="assistant", text="The 4."), Turn(role="user", text="Is it red?"))
            rows.append(Conversation(turns=(*prompt.turns, *more, Turn(role="assistant", text="No."))))
        else:
            rows.append(replace(prompt, reference=f"The {i}.", meta={"type": "detail"}))
    for i in range(n_text):
        prompt = replace(ask_about(text=f"Name fruit {i}."), meta={"type": "conversation"})
        rows.append(Example.of(prompt=prompt, completion=f"An apple {i}.", source="instruct"))
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model, a tower, pictures with captions, and instructions."""
    root = tmp_path_factory.mktemp("world")
    save_language_model(root / "lm")
    save_clip(root / "clip")
    (root / "images").mkdir()
    captions = [
        replace(ask_about(save_image(root / "images", f"c{i}.png", seed=i), text="Describe it."), reference=f"A {i}.")
        for i in range(6)
    ]
    save_rows(root / "captions.jsonl", captions)
    save_rows(root / "rows.jsonl", instructions(root / "images"))
    return root


RECIPE = """\
name: built
runs: {runs}
backbone: {world}/lm
threads: 1
pretrain:
  tower: {world}/clip
  projector: {projector}
  rows: {world}/captions.jsonl
  image_root: {world}/images
  trl: {{per_device_train_batch_size: 2, learning_rate: 1.0e-2, max_steps: 3}}
instruct:
  rows: {world}/rows.jsonl
  image_root: {world}/images
  lora: {{r: 4, alpha: 8}}
  trl: {{per_device_train_batch_size: 2, learning_rate: 1.0e-2, max_steps: 4}}
"""


def recipe(world: Path, folder: Path, *, projector: str = "mlp", more: str = "") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(runs=folder / "runs", world=world, projector=projector) + more, encoding="utf-8")
    return path


def weights(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def changed(before: Path, after: Path) -> set[str]:
    a, b = weights(before), weights(after)
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def part(name: str) -> str:
    return next((p for p in ("vision_tower", "linear_1", "linear_2") if p in name), "language")


@pytest.fixture(scope="module")
def built(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    assert main(["run", str(recipe(world, folder))]) == 0
    return folder / "runs" / "built"


def test_stage_1_teaches_the_projector_alone(built: Path) -> None:
    (joined,) = (built / "pretrain" / "work" / "joined").iterdir()
    assert {part(name) for name in changed(joined, built / "pretrain" / "model")} == {"linear_1", "linear_2"}
    manifest = json.loads((built / "pretrain" / "manifest.json").read_text())
    assert manifest["funnel"]["rows of the file"] == manifest["funnel"]["rows trained on"] == 6


def test_both_stages_say_what_they_read_and_it_is_what_the_rows_hold(built: Path) -> None:
    for stage, n in (("pretrain", 6), ("instruct", 8)):
        told = json.loads((built / stage / "tokens.json").read_text())
        assert told["epochs"] == 1.0 and "seconds" not in told
        assert told["measured"]["rows"] == told["rows_once"]["rows"] == n
        for name in ("lm", "image", "trained", "squared", "with_images", "views"):
            assert told["measured"][name] == told["rows_once"][name] > 0
        assert told["measured"]["tower_calls_of_text"] == 0
        assert f"{told['measured']['lm']:,}, and" in (built / stage / "card.md").read_text()
    counts = {name: read_count(built, name) for name in ("tokens", "flops", "seconds")}  # as a paper's table shows them
    assert {name: (count.value, count.rows) for name, count in counts.items()} == {
        "tokens": (told["rows_once"]["lm"], 8),
        "flops": (told["flops"]["total"], 8),
        "seconds": (json.loads((built / "instruct/manifest.json").read_text())["seconds"], 8),
    }


def test_an_estimate_before_any_training_is_what_the_trainings_then_read(
    world: Path, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", str(recipe(world, tmp_path)), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out.splitlines()[-1])["stages"]
    for told in stages:
        found = json.loads((built / told["stage"] / "tokens.json").read_text())
        reading = told["reading"]
        assert reading["passes"] == found["epochs"] == 1.0
        assert reading["rows"] == found["measured"]["rows"]
        assert reading["lm_tokens"] == found["measured"]["lm"]
        assert reading["image_tokens"] == found["measured"]["image"]
        assert reading["trained_tokens"] == found["measured"]["trained"]
        assert reading["flops"] == found["flops"]["total"]
    assert [told["stage"] for told in stages] == ["pretrain", "instruct"]
    assert not (tmp_path / "runs").exists()

    assert main(["estimate", str(recipe(world, tmp_path)), "instruct.max_length=40"]) == 0
    said = capsys.readouterr().out
    assert "counted with the tokenizer and processor of lm and clip" in said
    assert "left out: 2 too_long" in said


def test_stage_2_teaches_projector_and_language_model(built: Path) -> None:
    moved = changed(built / "pretrain" / "model", built / "instruct" / "model")
    assert {part(name) for name in moved} == {"linear_1", "linear_2", "language"}
    assert not (built / "instruct" / "adapter").exists()
    assert len((built / "instruct" / "log.jsonl").read_text().splitlines()) == 4


def test_nothing_is_done_twice(world: Path, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(built.parent.parent / "recipe.yaml")]) == 0
    told = capsys.readouterr().out
    assert "pretrain: up to date" in told
    assert "instruct: up to date" in told


def test_by_lora_with_snapshots_a_projector_of_one_layer_stays_one(world: Path, tmp_path: Path) -> None:
    file = recipe(world, tmp_path, projector="linear")
    given = ["instruct.parts.language=lora", "instruct.snapshots=[1, 3]"]
    assert main(["run", str(file), *given]) == 0
    run = tmp_path / "runs" / "built"
    base, tuned = run / "pretrain" / "model", run / "instruct" / "model"
    moved = changed(base, tuned)
    assert {part(name) for name in moved} == {"linear_1", "language"}
    second = {name: value for name, value in weights(tuned).items() if "linear_2" in name}
    assert all(torch.equal(value, torch.eye(32) if value.ndim == 2 else torch.zeros(32)) for value in second.values())
    adapted = load_vlm(base, adapter=run / "instruct" / "adapter").model
    assert all(
        torch.equal(value, adapted.state_dict()[name]) for name, value in load_vlm(tuned).model.state_dict().items()
    )
    kept = sorted(path.name for path in (run / "instruct" / "snapshots").iterdir())
    assert kept == ["step-1", "step-3"]
    one, three = ((run / "instruct" / "snapshots" / name / "adapter" / "adapter_model.safetensors") for name in kept)
    assert one.read_bytes() != three.read_bytes() != (run / "instruct/adapter/adapter_model.safetensors").read_bytes()


def test_a_snapshot_beyond_the_end_is_told_before_the_first_step(
    world: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = built.parent.parent / "recipe.yaml"
    assert main(["run", str(file), "name=other", "instruct.snapshots=[2, 9]"]) == 2
    assert "instruct.snapshots: step 9 is beyond the last step, 4" in capsys.readouterr().err


def test_a_dialogue_is_learnt_at_every_answer(built: Path, world: Path) -> None:
    processor = load_processor(built / "instruct" / "model")
    encoder = Encoder(processor.tokenizer, processor)
    for whole, learnt in ((True, " The 4.</s> No.</s>"), (False, " No.</s>")):
        rows = read_file_rows(world / "rows.jsonl", world / "images", stage="instruct", whole=whole).rows
        (row,) = (row for row in rows if row.prompt.turns[0].text.endswith("Which digit is 1?"))
        batch = collate_examples([row], encoder)([{"row": 0}])
        labels = batch["labels"][0]
        assert processor.tokenizer.decode(labels[labels != -100]) == learnt


def test_rows_of_every_kind_are_read_in_order(world: Path) -> None:
    found = read_file_rows(world / "rows.jsonl", world / "images", stage="instruct")
    assert [row.completions[0] for row in found.rows] == [
        *("The 0.", "No.", "The 2.", "No."),
        *(f"An apple {i}." for i in range(4)),
    ]
    assert (found.read, found.fitting) == (8, 8)


def test_rows_are_selected_by_what_their_meta_says(world: Path) -> None:
    def taken(**select: Any) -> list[str]:
        rows = read_file_rows(world / "rows.jsonl", world / "images", stage="instruct", select=select).rows
        return [row.completions[0] for row in rows]

    assert taken(type="detail") == ["The 0.", "The 2."]
    assert len(taken(type=["detail", "conversation"])) == 6
    with pytest.raises(UserError, match=r"none of its 8 rows says type: reasoning in its meta"):
        taken(type="reasoning")


def test_a_smaller_draw_is_part_of_a_larger_one(world: Path, tmp_path: Path) -> None:
    def drawn(n: int, seed: int = 0, file: Path = world / "rows.jsonl") -> list[str]:
        return [row.id for row in read_file_rows(file, world / "images", stage="instruct", n=n, seed=seed).rows]

    assert set(drawn(2)) < set(drawn(5)) < set(drawn(8))
    assert drawn(5) != drawn(5, seed=1)
    lines = (world / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "turned.jsonl").write_text("".join(reversed(lines)))
    assert drawn(5, file=tmp_path / "turned.jsonl") == drawn(5)[::-1]
    with pytest.raises(UserError, match=r"instruct.n: 9 rows are wanted, .* has 8 that fit"):
        drawn(9)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<image>\nIs it?", "Is it?"),
        ("Is it?\n<image>", "Is it?"),
        ("Look:\n<image>\nIs it?", "Look:\nIs it?"),
        ("<image><image>\nAlike?", "Alike?"),
        ("Line\n\nbreaks of one's own.", "Line\n\nbreaks of one's own."),
    ],
)
def test_the_placeholder_goes_with_its_line_break(text: str, left: str) -> None:
    assert without_images(text) == left


def test_text_only_visual_instruction_tuning_has_no_image_left(world: Path, built: Path, tmp_path: Path) -> None:
    file = built.parent.parent / "recipe.yaml"
    assert main(["instruct", str(file), "name=text", f"runs={tmp_path}", "instruct.images=strip"]) == 0
    stripped = read_file_rows(world / "rows.jsonl", world / "images", stage="instruct", images="strip").rows
    processor = load_processor(built / "instruct" / "model")
    encoder = Encoder(processor.tokenizer, processor)
    ids = [token for row in stripped for token in encoder.prompt(row.prompt.turns, row.images).ids]
    assert len(stripped) == 8
    assert encoder.image_id not in ids
    moved = changed(tmp_path / "text" / "pretrain" / "model", tmp_path / "text" / "instruct" / "model")
    assert {part(name) for name in moved} == {"language"}


def test_what_is_no_row_is_told_with_its_line(world: Path, tmp_path: Path) -> None:
    prompt = Prompt.of((Turn(role="user", text="Why?"),))
    bad = tmp_path / "bad.jsonl"
    bad.write_text(dump_line(prompt.to_json()) + '{"id": 1, "conversations": []}\n')
    with pytest.raises(UserError) as told:
        read_file_rows(bad, tmp_path, stage="instruct")
    assert "bad.jsonl:1: a prompt without a reference has no answer to learn" in str(told.value)
    assert "bad.jsonl:2: schema None is none of example/1, prompt/1, conversation/1" in str(told.value)


def test_all_lines_that_are_no_rows_are_told_in_order(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"schema": "item/1"}\n{"schema": "pro\n[1]\n"\xff"\n{}\n')
    with pytest.raises(UserError) as told:
        read_file_rows(bad, tmp_path, stage="instruct")
    lines = [fault.removeprefix(f"{bad}:") for fault in told.value.faults]
    assert [line[:20] for line in lines] == [
        "1: schema 'item/1' i",
        "2: not a line of JSO",
        "3: expected a JSON o",
        "4: not a line of JSO",
        "5: schema None is no",
    ]
    assert lines[2] == "3: expected a JSON object, got list"


@pytest.mark.parametrize("indent", [None, 2])
def test_llavas_json_list_is_told_what_makes_rows_of_it(
    indent: int | None, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    (tmp_path / "ins.json").write_text(json.dumps([{"id": "1", "conversations": said}], indent=indent))
    model = built / "instruct" / "model"
    (tmp_path / "mine.yaml").write_text(f"name: mine\nmodel: {model}\ninstruct: {{rows: ins.json}}\n")
    command = "align convert ins.json ins.jsonl --to mmalign"
    for asked in (["instruct", "mine.yaml"], ["tokens", "ins.json", "--model", str(model)]):
        assert main(asked) == 2
        assert f"ins.json: is a JSON list, no JSON Lines; first: {command}" in capsys.readouterr().err
    assert main(command.split()[1:]) == 0
    assert len(read_file_rows(tmp_path / "ins.jsonl", tmp_path, stage="instruct").rows) == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("instruct: {imags: strip}", r"recipe.yaml:\d+  instruct.imags: .*did you mean 'images'"),
        ("instruct: {parts: {language: fully}}", r"recipe.yaml:\d+  instruct.parts.language"),
        (
            "instruct: {rows: r, images: strip, parts: {language: frozen}}",
            r"recipe.yaml:\d+  instruct.images: strip leaves text alone, which teaches nothing",
        ),
        ("pretrain: {tower: clip}", r"recipe.yaml:\d+  pretrain.rows: missing"),
        ("instruct: {rows: r.jsonl, snapshots: [3, 0]}", r"recipe.yaml:\d+  instruct.snapshots: 0 is impossible"),
        ("model: other", r"recipe.yaml:\d+  model: the `pretrain` block trains the model"),
    ],
)
def test_a_typo_is_refused_with_its_line(
    line: str, told: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = line.partition(":")[0]
    text = recipe(world, tmp_path).read_text()
    blocks = re.split(r"(?m)^(?=\w)", text)
    (tmp_path / "recipe.yaml").write_text("".join(b for b in blocks if not b.startswith(f"{key}:")) + line + "\n")
    assert main(["status", str(tmp_path / "recipe.yaml")]) == 2
    assert re.search(told, capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp.yaml", "fsdp2.yaml"])
def test_two_processes_learn_what_one_does(config: str, world: Path, tmp_path: Path) -> None:
    """Both stages, over rows with and without images: none waits for the other for ever."""
    logs = {}
    for name, n_rows in (("one", 2), ("two", 1)):
        (tmp_path / name).mkdir()
        file = recipe(world, tmp_path / name)
        given = [f"{stage}.trl.per_device_train_batch_size={n_rows}" for stage in ("pretrain", "instruct")]
        if name == "one":
            assert main(["instruct", str(file), *given]) == 0
        else:
            code, _, errors = ended(start(config, "instruct", file, *given))
            assert code == 0, errors[-3000:]
        run = tmp_path / name / "runs" / "built"
        logs[name] = {stage: [r for _, r in read_rows(run / stage / "log.jsonl")] for stage in ("pretrain", "instruct")}
    for stage in ("pretrain", "instruct"):
        one, two = ([row["loss"] for row in logs[name][stage]] for name in ("one", "two"))
        assert two == pytest.approx(one, rel=1e-4), stage
