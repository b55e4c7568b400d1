"""Parts of a model that learn, alone and at their own rates; what a training leaves, and who can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_run import ROOT
from test_train import SMALL, preference_rows, stage_context
from test_train_kill import file_sha256
from tiny_llava import ask_about, run_stage, save_image, save_tiny_llava_next

from align.digest import model_digest
from align.evaluate.models import contestants
from align.inputs import input_faults
from align.models.load import load_vlm
from align.models.merge import merge_adapter
from align.recipe import load_recipe
from align.sample.vllm_engine import lora_rank
from align.settings import Lora, Parts, Train
from align.stages import STAGES
from align.train import rejection
from align.train.lora_rows import TrainRow
from align.train.lora_run import check_options, train_lora
from align.train.modules import model_faults
from align.train.parts import part_of
from align.train.preflight import look_ahead, memory_needed
from annotate.errors import UserError
from annotate.records import Example, Prompt

QUICK = {"per_device_train_batch_size": 2, "max_steps": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
LORA = Lora(r=4, alpha=8, dropout=0.2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def prompts(root: Path) -> list[Prompt]:
    return [ask_about(save_image(root, f"p{i}.png", seed=i), text=f"Question {i}?") for i in range(5)]


@pytest.fixture(scope="module")
def before(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_vlm(folder).model.state_dict())


def train(
    folder: Path,
    root: Path,
    prompts: list[Prompt],
    out: Path,
    *,
    method: str = "sft",
    told: list[int] | None = None,
    **settings: Any,
) -> Any:
    """`told`: is given the steps that were taken."""
    rows = preference_rows(prompts, root)
    if method == "sft":
        rows = [TrainRow(id=r.id, prompt=r.prompt, images=r.images, completions=r.completions[:1]) for r in rows]
    trl = QUICK | settings.pop("trl", {})
    return train_lora(
        method=method,  # type: ignore[arg-type]
        stage=method,
        rows=rows,
        model=folder,
        settings=Train(**{"lora": LORA, "checkpoint_every": 2, "trl": trl, **settings}),
        seed=3,
        folder=out,
        progress=lambda done, total, note="": None if told is None else told.append(done),
    )


def moved(before: dict[str, torch.Tensor], made: Path, folder: Path) -> dict[str, int]:
    """How many tensors of each part are others than before, bit by bit; `made` is what a training left."""
    loaded = load_vlm(made) if made.name == "model" else load_vlm(folder, adapter=made)
    after = loaded.model.state_dict()
    assert after.keys() == before.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {part: sum(part_of(name) == part for name in changed) for part in {part_of(name) for name in changed}}


def test_parts_are_told_by_their_names() -> None:
    assert part_of("base_model.model.model.multi_modal_projector.modules_to_save.default.linear_1.bias") == "projector"
    assert part_of("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight") == "tower"
    assert part_of("model.image_newline") == "projector"
    assert [part_of(n) for n in ("lm_head.weight", "model.language_model.layers.0.mlp.up_proj.weight")] == [
        "language",
        "language",
    ]


# ----------------------------------------------------------------------------------------------------- what learns

N_PROJECTOR, N_LANGUAGE, N_LAYER_MATRICES = 4, 21, 14
"""Tensors of the small model: two linear layers with bias; two decoder layers, embeddings, norm, head; their LoRA's."""


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (Parts(language="full"), {"language": N_LANGUAGE}),
        (Parts(language="frozen", projector="full"), {"projector": N_PROJECTOR}),
        (Parts(language="full", projector="full"), {"language": N_LANGUAGE, "projector": N_PROJECTOR}),
        (Parts(projector="full"), {"language": N_LAYER_MATRICES, "projector": N_PROJECTOR}),
    ],
    ids=["language", "projector", "language+projector", "lora+projector"],
)
def test_what_is_to_learn_moves_and_nothing_else_does(
    folder: Path,
    root: Path,
    prompts: list[Prompt],
    before: dict[str, torch.Tensor],
    tmp_path: Path,
    parts: Parts,
    expected: dict[str, int],
) -> None:
    made = train(folder, root, prompts, tmp_path, parts=parts)
    assert made.adapter.name == ("adapter" if parts.language == "lora" else "model")
    assert made.log[-1]["loss"] < made.log[0]["loss"]
    assert moved(before, made.adapter, folder) == expected


def test_a_tower_learns_as_far_as_its_features_are_taken(
    folder: Path, root: Path, prompts: list[Prompt], before: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """LLaVA reads a layer of the tower; what comes after it has no gradient."""
    made = train(folder, root, prompts, tmp_path / "whole", parts=Parts(language="frozen", tower="full"))
    n = moved(before, made.adapter, folder)
    assert set(n) == {"tower"}
    beside = train(folder, root, prompts, tmp_path / "lora", parts=Parts(tower="full"))
    assert moved(before, beside.adapter, folder) == {"language": N_LAYER_MATRICES, **n}


def test_a_whole_model_lies_there_as_its_base_did(
    folder: Path, root: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    made = train(folder, root, prompts, tmp_path, parts=Parts(language="full")).adapter
    assert sorted(path.name for path in made.iterdir()) == sorted(path.name for path in folder.iterdir())
    for path in folder.glob("*.json"):
        assert (made / path.name).read_bytes() == path.read_bytes(), path.name
    assert load_file(made / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


# ----------------------------------------------------------------------------------------------------------- rates


def test_the_projector_has_a_rate_of_its_own_in_optimizer_and_log(
    folder: Path, root: Path, prompts: list[Prompt], before: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    parts = Parts(projector="full", projector_learning_rate=2e-5)
    trl = {"lr_scheduler_type": "linear", "max_steps": 4}
    made = train(folder, root, prompts, tmp_path, parts=parts, trl=trl)
    assert [entry["learning_rate"] for entry in made.log] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    own = [entry["learning_rate/projector"] for entry in made.log]
    assert own == pytest.approx([2e-5, 1.5e-5, 1e-5, 0.5e-5])
    state = torch.load(tmp_path / "checkpoint-4" / "optimizer.pt", weights_only=True)
    groups = {group.get("part", "rest"): len(group["params"]) for group in state["param_groups"] if group["params"]}
    assert groups.keys() == {"projector", "rest"}
    # Adam's first step is as long as the rate, and later ones are not longer: 4 steps of at most 2e-5
    after = load_vlm(folder, adapter=made.adapter).model.state_dict()
    steps = [(after[n] - before[n]).abs().max().item() for n in before if part_of(n) == "projector"]
    assert 1e-5 < max(steps) < 6e-5


def test_without_a_rate_of_its_own_the_log_is_as_it_was(
    folder: Path, root: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    made = train(folder, root, prompts, tmp_path, parts=Parts(projector="full"))
    assert not any(name.startswith("learning_rate/") for entry in made.log for name in entry)


# ---------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "parts",
    [
        Parts(language="full", projector="full", projector_learning_rate=1e-3),
        Parts(projector="full", projector_learning_rate=1e-3),
    ],
    ids=["full", "lora+projector"],
)
def test_a_training_that_goes_on_ends_with_the_same_bytes(
    folder: Path, root: Path, prompts: list[Prompt], tmp_path: Path, parts: Parts
) -> None:
    """From checkpoint 2 of 4; the constant rate makes a training of two steps the beginning of one of four."""
    whole = train(folder, root, prompts, tmp_path / "whole", parts=parts)
    train(folder, root, prompts, tmp_path / "twice", parts=parts, trl={"max_steps": 2})
    told: list[int] = []
    resumed = train(folder, root, prompts, tmp_path / "twice", parts=parts, told=told)
    assert told == [3, 4]
    names = sorted(path.name for path in whole.adapter.iterdir())
    for name in names:
        assert file_sha256(resumed.adapter / name) == file_sha256(whole.adapter / name), name
    assert resumed.log == whole.log
    assert any(name.endswith(".safetensors") for name in names)


# ------------------------------------------------------------------------------------------------------- and onwards


def test_dpo_trains_the_projector_beside_the_adapter_shared_or_not(
    folder: Path, root: Path, prompts: list[Prompt], before: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The reference keeps the projector it had: the first loss is ln 2, later ones are the same both ways."""
    parts = Parts(projector="full", projector_learning_rate=1e-3)
    lora = Lora(r=4, alpha=8, dropout=0.0)
    made = {
        (sharing, reference): train(
            folder, root, prompts, tmp_path / f"{sharing}-{reference}", method="dpo", parts=parts, lora=lora,
            sharing=sharing, reference=reference,
        )
        for sharing, reference in (("auto", "cache"), ("off", "live"))
    }  # fmt: skip
    ours, theirs = made.values()
    for name in ("loss", "rewards/margins", "grad_norm"):
        assert [e[name] for e in ours.log] == pytest.approx([e[name] for e in theirs.log], rel=1e-4, abs=1e-6)
    assert moved(before, ours.adapter, folder) == {"language": N_LAYER_MATRICES, "projector": N_PROJECTOR}


def test_an_adapter_with_a_projector_is_merged_whole(
    folder: Path, root: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    adapter = train(folder, root, prompts, tmp_path, parts=Parts(projector="full")).adapter
    assert merge_adapter(folder, adapter, tmp_path / "merged")
    one, other = load_vlm(tmp_path / "merged").model.state_dict(), load_vlm(folder, adapter=adapter).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)
    with pytest.raises(UserError, match="holds multi_modal_projector beside LoRA, which vLLM does not take"):
        lora_rank(adapter)


def test_a_stage_leaves_its_model_where_evaluation_looks(
    folder: Path, root: Path, prompts: list[Prompt], tmp_path: Path
) -> None:
    examples = [Example.of(prompt=p, completion="The 4 is blue.", source="rejection") for p in prompts]
    plain = Train(lora=SMALL, trl=QUICK)
    whole = Train(lora=SMALL, trl=QUICK, parts=Parts(language="full", projector="full"))
    inputs = {("pairs", "rejection.jsonl"): examples}
    works = [
        rejection.work(stage_context(folder, root, prompts, "rejection", s, inputs=inputs)) for s in (plain, whole)
    ]
    assert works[0].units[0].key != works[1].units[0].key
    compiled, _ = run_stage(works[1], tmp_path)
    made = compiled.files["model"]
    assert isinstance(made, Path)
    assert "adapter" not in compiled.files
    card = str(compiled.files["card.md"])
    assert "# Model: rejection" in card
    assert "| parts.language | `full` |" in card
    assert "peft" not in card
    assert not list(tmp_path.rglob("checkpoint-*"))
    context = stage_context(folder, root, prompts, "rejection", whole, files={("rejection", "model"): made})
    vlm, aligned = contestants(context)
    assert (aligned.folder, aligned.adapter, aligned.sha256) == (made, None, model_digest(made))
    assert aligned.sha256 != vlm.sha256
    assert aligned.load().model.config.model_type == "llava"
    # edited afterwards: not what was trained
    (made / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not the model that was trained"):
        works[1].compile(
            {works[1].units[0].key: {"weights_sha256": aligned.sha256, "failures": [], "log": []}}, tmp_path
        )


def test_memory_of_what_is_trained_whole(folder: Path) -> None:
    ahead = look_ahead(folder)

    def needed(parts: Parts) -> Any:
        return memory_needed(folder, ahead.config, Train(lora=LORA, parts=parts), [10], batch_size=1, itemsize=2)

    n = {part: 0 for part in ("language", "projector", "tower")}
    for name, tensor in load_file(folder / "model.safetensors").items():
        n[part_of(name)] += tensor.numel()
    adapter = needed(Parts()).adapter
    assert needed(Parts()).weights == 2 * sum(n.values())
    beside = needed(Parts(projector="full"))
    assert (beside.weights, beside.adapter) == (2 * sum(n.values()), adapter + 16 * n["projector"])
    whole = needed(Parts(language="full", projector="full"))
    assert (whole.weights, whole.adapter) == (2 * n["tower"], 16 * (n["language"] + n["projector"]))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("dpo", {"parts": Parts(language="full")}, "dpo.parts.language: full is not for dpo, whose reference is"),
        ("sft", {"parts": Parts(language="frozen")}, "sft.parts: nothing would learn"),
        ("sft", {"parts": Parts(tower_learning_rate=1e-6)}, "sft.parts.tower_learning_rate: 1e-06 for what does not"),
        ("sft", {"parts": Parts(language="full"), "quantize": "nf4"}, "sft.parts.language: 4 bits cannot be trained"),
    ],
)
def test_what_makes_no_sense_is_said(method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_options(Train(**settings), method, method)  # type: ignore[arg-type]


def test_parts_of_another_family_are_refused_by_name_before_its_weights_are_read(root: Path, tmp_path: Path) -> None:
    """Qwen2-VL's tower is called `visual`: it would be taken for a part of the language model."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 2, "vocab_size": 64, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2}
    Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    (told,) = model_faults(tmp_path, Train(parts=Parts(language="full")))
    assert told == (
        "parts: a model of type qwen2_vl has no vision_tower and no multi_modal_projector, by which its parts would be "
        "told; leave `parts` out, and its language model learns by LoRA"
    )
    assert model_faults(tmp_path, Train()) == []
    recipe = load_recipe(ROOT / "recipes/demo.yaml", ["dpo.parts={projector: full}"])
    (fault,) = input_faults(recipe, [STAGES["dpo"]], asking=False, model=tmp_path)
    assert fault == f"dpo.{told}"


def test_llava_next_calls_its_parts_the_same(root: Path, tmp_path: Path) -> None:
    folder = save_tiny_llava_next(tmp_path / "next")
    prompts = [ask_about(save_image(root, "n.png", seed=1), text="Which?")]
    made = train(folder, root, prompts, tmp_path / "out", parts=Parts(projector="full"), trl={"max_steps": 1})
    config = json.loads((made.adapter / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["multi_modal_projector"]
