"""LLaVA in its authors' layout, written here with torch.save, against a forward pass over the raw tensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image as PILImage
from safetensors.torch import save_file
from tiny_llava import ask_about, save_image
from tiny_parts import save_clip, save_language_model
from torch.nn.functional import gelu, linear
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPImageProcessorPil, CLIPVisionModel

from align.cli import main
from align.models.load import load_vlm
from align.models.original import import_llava
from annotate.errors import UserError

Tensors = dict[str, torch.Tensor]
CONFIG = {"model_type": "llava_llama", "mm_vision_tower": "clip", "mm_vision_select_layer": -2}
MEAN = (0.48145466, 0.4578275, 0.40821073)


@dataclass
class Parts:
    """What an original checkpoint is made of, to be run without anything of ours."""

    lm: Any
    clip: Any
    projector: Tensors


def drawn(**shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    return {name.replace("_", "."): torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def one_layer() -> Tensors:
    return drawn(weight=(32, 32), bias=(32,))


def two_layers() -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {"0_weight": (32, 32), "0_bias": (32,), "2_weight": (32, 32), "2_bias": (32,)}
    return drawn(**shapes)


def write(folder: Path, config: Mapping[str, Any] | None = None, **files: Tensors) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | dict(config or {})))
    for name, tensors in files.items():
        torch.save(tensors, folder / f"{name}.bin")
    return folder


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("given")
    save_language_model(root / "lm")
    save_clip(root / "clip")
    return root


@pytest.fixture
def world(given: Path, tmp_path: Path) -> Path:
    """`lm` and `clip` in a folder of the test's own."""
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    return tmp_path


def base(world: Path, projector: Tensors) -> Parts:
    lm = AutoModelForCausalLM.from_pretrained(world / "lm")
    return Parts(lm.eval(), CLIPVisionModel.from_pretrained(world / "clip").eval(), projector)


def write_stage_1(world: Path) -> Path:
    return write(world / "old", mm_projector=under("model.mm_projector", one_layer()))


def stage_1_linear(world: Path) -> Parts:
    write_stage_1(world)
    return base(world, one_layer())


def stage_1_mlp(world: Path) -> Parts:
    write(world / "old", mm_projector=under("base_model.model.model.mm_projector", two_layers()))
    return base(world, two_layers())


def lora(world: Path) -> Parts:
    """Adapter and projector as finetune_lora leaves them; images are padded to a square."""
    parts = base(world, two_layers())
    torch.manual_seed(1)
    options = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    trained = get_peft_model(parts.lm, options)
    trained.save_pretrained(world / "old")
    write(
        world / "old",
        {"image_aspect_ratio": "pad"},
        non_lora_trainables=under("base_model.model.model.mm_projector", two_layers()),
        adapter_model={
            name.replace(".default", ""): tensor for name, tensor in trained.state_dict().items() if "lora_" in name
        },
    )
    (world / "old/adapter_model.safetensors").unlink()
    parts.lm = trained.merge_and_unload().eval()
    return parts


def whole(world: Path) -> Parts:
    """Two shards; tower trained too; tokens about images in the vocabulary."""
    parts = base(world, two_layers())
    tokenizer = AutoTokenizer.from_pretrained(world / "lm")
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    parts.lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for parameter in parts.clip.parameters():
            parameter.mul_(1.1)
    seeing = under("model.mm_projector", parts.projector)
    seeing |= under("model.vision_tower.vision_tower.vision_model", parts.clip.state_dict())
    told = json.loads(parts.lm.config.to_json_string()) | CONFIG | {"mm_use_im_start_end": True}
    write(world / "old", told, **{"pytorch_model-00001-of-00002": parts.lm.state_dict()})
    torch.save(seeing, world / "old/pytorch_model-00002-of-00002.bin")
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    index = dict.fromkeys(parts.lm.state_dict(), names[0]) | dict.fromkeys(seeing, names[1])
    (world / "old/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    tokenizer.save_pretrained(world / "old")
    return parts


def whole_in_safetensors(world: Path) -> Parts:
    """The class token goes to the language model too."""
    parts = base(world, one_layer())
    told = json.loads(parts.lm.config.to_json_string()) | CONFIG | {"mm_vision_select_feature": "cls_patch"}
    tensors = parts.lm.state_dict() | under("model.mm_projector", parts.projector)
    write(world / "old", told)
    save_file(tensors, world / "old/model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(world / "lm").save_pretrained(world / "old")
    return parts


def original_logits(parts: Parts, ids: list[int], image: PILImage.Image, config: Mapping[str, Any]) -> torch.Tensor:
    """Images to the tower, its last layer but one through the raw matrices, in among the embeddings (-200)."""
    if config.get("image_aspect_ratio") == "pad":
        side = max(image.size)
        square = PILImage.new("RGB", (side, side), tuple(int(255 * part) for part in MEAN))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    prepare = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    first = 0 if config.get("mm_vision_select_feature") == "cls_patch" else 1
    with torch.no_grad():
        pixels = prepare(image, return_tensors="pt")["pixel_values"]
        seen = parts.clip(pixels, output_hidden_states=True).hidden_states[-2][0, first:]
        p = parts.projector
        if "weight" in p:
            seen = linear(seen, p["weight"], p["bias"])
        else:
            seen = linear(gelu(linear(seen, p["0.weight"], p["0.bias"])), p["2.weight"], p["2.bias"])
        at, embed = ids.index(-200), parts.lm.get_input_embeddings()
        before, after = embed(torch.tensor(ids[:at])), embed(torch.tensor(ids[at + 1 :]))
        return parts.lm(inputs_embeds=torch.cat([before, seen, after])[None]).logits[0]


@pytest.mark.parametrize(
    "build",
    [
        stage_1_linear,
        lora,
        whole,
        *(pytest.param(build, marks=pytest.mark.slow) for build in (stage_1_mlp, whole_in_safetensors)),
    ],
)
def test_the_imported_model_says_what_the_original_says(build: Callable[[Path], Parts], world: Path) -> None:
    parts = build(world)
    config = json.loads((world / "old/config.json").read_text())
    own = build in (whole, whole_in_safetensors)
    import_llava(world / "old", world / "new", tower=world / "clip", language=None if own else world / "lm")
    vlm = load_vlm(world / "new")
    prompt = ask_about(save_image(world, "a.png", seed=3, size=(70, 48)))
    encoded = vlm.encoder.prompt(prompt.turns, [world / "a.png"])
    n = encoded.ids.count(vlm.encoder.image_id or -1)
    assert (
        n == (10 if config.get("mm_vision_select_feature") == "cls_patch" else 9) == vlm.model.config.image_seq_length
    )
    at = encoded.ids.index(vlm.encoder.image_id or -1)
    ids = [*encoded.ids[:at], -200, *encoded.ids[at + n :]]
    wanted = original_logits(parts, ids, PILImage.open(world / "a.png").convert("RGB"), config)
    with torch.no_grad():
        found = vlm.model(input_ids=torch.tensor([encoded.ids]), **encoded.images).logits[0, :, : wanted.shape[-1]]
    assert torch.allclose(found, wanted, atol=1e-5), (found - wanted).abs().max()
    assert wanted.std() > 0.3  # it says something
    told = json.loads((world / "new/imported_from").read_text())
    assert told["projector"] == ("linear" if "weight" in parts.projector else "mlp")


def test_tokens_that_stage_1_added_get_the_rows_that_it_trained(world: Path) -> None:
    """`mm_use_im_start_end`: the embeddings of the two tokens lie with the connector; the head's are the mean."""
    rows = torch.arange(64.0).reshape(2, 32)
    tensors = under("model.mm_projector", one_layer()) | {"model.embed_tokens.weight": rows}
    write(world / "old", {"mm_use_im_start_end": True}, mm_projector=tensors)
    made = import_llava(world / "old/mm_projector.bin", world / "new", tower=world / "clip", language=world / "lm")
    vlm = load_vlm(world / "new")
    ids = vlm.tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>", "<image>"])
    old = AutoModelForCausalLM.from_pretrained(world / "lm").lm_head.weight
    assert made["tokens"] == ["<im_start>", "<im_end>"] and ids == [len(old), len(old) + 1, len(old) + 2]
    assert torch.equal(vlm.model.get_input_embeddings().weight[ids[:2]], rows)
    assert torch.allclose(vlm.model.lm_head.weight[ids[:2]], old.mean(dim=0), atol=1e-6)


class Malicious:
    """What a plain `torch.load` would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("build", "file"),
    [
        (write_stage_1, "old/mm_projector.bin"),
        (lora, "old/non_lora_trainables.bin"),
        (lora, "old/adapter_model.bin"),
        (whole, "old/pytorch_model-00002-of-00002.bin"),
        (write_stage_1, "lm/pytorch_model.bin"),
        (write_stage_1, "clip/pytorch_model.bin"),
    ],
)
def test_a_pickle_that_would_run_something_is_refused_and_not_run(
    build: Callable[[Path], Any], file: str, world: Path
) -> None:
    build(world)
    (world / file).parent.joinpath("model.safetensors").unlink(missing_ok=True)
    torch.save({"model.mm_projector.weight": Malicious(world / "ran")}, world / file)
    before = sorted(world.rglob("*"))
    own = build is whole
    with pytest.raises(UserError, match=r"cannot be (read|loaded)"):
        import_llava(world / "old", world / "new", tower=world / "clip", language=None if own else world / "lm")
    assert sorted(world.rglob("*")) == before  # it did not run, and nothing was left


def test_the_command_takes_the_tower_that_the_checkpoint_names(world: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(world)
    write_stage_1(world)
    torch.save(AutoModelForCausalLM.from_pretrained("lm").state_dict(), "lm/pytorch_model.bin")
    (world / "lm/model.safetensors").unlink()  # as Vicuna's own folder, and with its generation configuration:
    (world / "lm/generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6}')
    assert main(["extract-lm", "old", "x"]) == 2  # a verb that was given the original layout names the way
    assert "old: the original LLaVA layout; first: align import-llava old OUTDIR" in capsys.readouterr().err
    assert main(["import-llava", "old", "--language", "lm", "new"]) == 0
    assert "old: a LLaVA with a projector `linear`, written to new" in capsys.readouterr().out
    assert main(["extract-lm", "new", "x"]) == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda old: (old / "mm_projector.bin").unlink(), "old: no mm_projector.bin"),
        (lambda old: write(old, mm_projector=drawn(weight=(3, 3), bias=(3,))), "none of its 2 tensors is of an mm_pro"),
        (lambda old: write(old, mm_projector=under("mm_projector", drawn(weight=(3, 3), bias=(3,)))), "does not fit"),
        (lambda old: write(old, mm_projector=under("mm_projector", drawn(**{"4_bias": (3,)}))), "known are linear"),
        (lambda old: write(old, {"image_aspect_ratio": "anyres"}), "a LLaVA-NeXT"),
        (lambda old: write(old, mm_projector={"model.image_newline": torch.ones(3)}), "holds model.image_newline"),
        (lambda old: (old / "config.json").write_text("["), "config.json: not a JSON object"),
        (lambda old: (old / "mm_projector.bin").write_bytes(b"<html>"), "it is damaged or holds other objects"),
        (lambda old: torch.save([1], old / "mm_projector.bin"), "is no table of tensors"),
        (lambda old: write(old, {"model_type": "llama"}, pytorch_model=one_layer()), "is no original LLaVA"),
    ],
)
def test_what_is_no_original_llava_is_told(spoil: Callable[[Path], Any], said: str, world: Path) -> None:
    spoil(write_stage_1(world))
    with pytest.raises(UserError, match=said):
        import_llava(world / "old", world / "new", tower=world / "clip", language=world / "lm")
    assert sorted(path.name for path in world.iterdir()) == ["clip", "lm", "old"]


def test_what_the_parts_lack_is_told(world: Path) -> None:
    write_stage_1(world)
    with pytest.raises(UserError, match="holds no language model; give the one it was trained on: --language LM"):
        import_llava(world / "old", world / "new", tower=world / "clip")
    with pytest.raises(UserError, match="old: is not empty"):
        import_llava(world / "old", world / "old", tower=world / "clip")
