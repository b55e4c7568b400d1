"""The language model alone out of real VLMs with random weights: it says what the VLM says, and any tool loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_llava import CORPUS, save_tiny_language_model, save_tiny_llava, save_tiny_llava_next
from tiny_parts import save_clip
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPVisionConfig,
    GraniteConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from align.cli import main
from align.digest import model_digest
from align.models.extract import extract_language_model
from align.models.load import load_language_model, load_vlm
from align.models.tiny import build_tokenizer
from align.train.saved import save_adapter
from annotate.errors import UserError

TEXTS = ("USER: Which digit is blue? ASSISTANT:", "Apple, pear, plum.", "x = {1: 'ü'}")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_language_model(tmp_path_factory.mktemp("lm"))


def in_shards(folder: Path) -> Path:
    """A LLaVA-NeXT in five files and an index."""
    save_tiny_llava_next(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) >= 3
    return folder


def tied_bfloat16(folder: Path) -> Path:
    """A LLaVA whose head is its embeddings."""
    save_tiny_llava(folder)
    config = LlavaConfig.from_pretrained(folder)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    LlavaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def qwen2_vl(folder: Path) -> Path:
    """Its text model has positions of three axes, and is no causal LM of transformers' own."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(CORPUS, 400)
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": len(tokenizer), "max_position_embeddings": 256,
        "initializer_range": 0.2, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    ids = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5, "vision_end_token_id": 6}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model.eval()(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and torch.equal(a, b)


@pytest.mark.parametrize(
    ("build", "architecture", "tied", "dtype"),
    [
        (tied_bfloat16, "LlamaForCausalLM", True, torch.bfloat16),
        pytest.param(in_shards, "LlamaForCausalLM", False, torch.float32, marks=pytest.mark.slow),
        (qwen2_vl, "Qwen2ForCausalLM", True, torch.float32),
    ],
)
def test_it_says_what_the_vlm_says(tmp_path: Path, build: Any, architecture: str, tied: bool, dtype: Any) -> None:
    folder, out = build(tmp_path / "vlm"), tmp_path / "lm"
    made = extract_language_model(folder, out)
    # as anybody loads it: no class of a VLM, no code of ours
    lm, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (type(lm).__name__, lm.dtype, lm.config.tie_word_embeddings) == (architecture, dtype, tied)
    assert (lm.lm_head.weight is lm.model.embed_tokens.weight) == tied
    vlm = AutoModelForImageTextToText.from_pretrained(folder)
    assert_same(logits(lm, AutoTokenizer.from_pretrained(out)), logits(vlm, AutoTokenizer.from_pretrained(folder)))
    assert made.tried["largest_difference"] == 0.0
    assert made.parameters < sum(p.numel() for p in vlm.parameters())


@pytest.mark.parametrize("projector", [pytest.param([], marks=pytest.mark.slow), ["multi_modal_projector"]])
def test_an_adapter_is_merged_and_what_it_says_of_the_projector_left(
    llava: Path, tmp_path: Path, projector: list[str]
) -> None:
    torch.manual_seed(1)
    lora = LoraConfig(
        r=2, target_modules=r".*language_model.*(q|v|up)_proj", init_lora_weights=False, modules_to_save=projector
    )
    trained = get_peft_model(load_vlm(llava).model, lora)
    save_adapter(trained, tmp_path / "adapter", trained_on=model_digest(llava))
    made = extract_language_model(llava, tmp_path / "lm", adapter=tmp_path / "adapter")
    with_adapter, plain = load_vlm(llava, adapter=tmp_path / "adapter"), load_vlm(llava)
    lm = load_language_model(tmp_path / "lm")
    wanted = logits(with_adapter.model, with_adapter.tokenizer)
    assert_same(logits(lm.model, lm.tokenizer), wanted)
    assert not torch.allclose(wanted[0], logits(plain.model, plain.tokenizer)[0], atol=0.1)
    assert not [name for name in lm.model.state_dict() if "lora" in name or "projector" in name]
    told = json.loads((tmp_path / "lm/extracted_from").read_text())
    assert told["model"] == made.model == model_digest(llava)
    assert told["adapter"] == model_digest(tmp_path / "adapter")


def test_what_belongs_to_a_language_model_is_carried_over_and_nothing_else(tmp_path: Path) -> None:
    folder = save_tiny_llava_next(tmp_path / "vlm")
    (folder / "LICENSE").write_text("Use it well.")
    (folder / "README.md").write_text("A model that sees.")
    (folder / "generation_config.json").write_text('{"temperature": 0.7, "do_sample": true}')
    out = tmp_path / "deep/er/lm"
    extract_language_model(folder, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "LICENSE", "chat_template.jinja", "config.json", "extracted_from", "generation_config.json",
        "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["lm"]
    assert (out / "generation_config.json").read_text() == '{"temperature": 0.7, "do_sample": true}'
    assert "processor_class" not in json.loads((out / "tokenizer_config.json").read_text())
    # the VLM's chat template goes through the parts of a content; of a plain text it would say nothing
    tokenizer = AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in asked]
    assert tokenizer.apply_chat_template(asked, tokenize=False) == "[user] Why?[assistant] So.</s>"
    assert tokenizer.apply_chat_template(parts, tokenize=False) == "[user] Why?[assistant] So.</s>"


def test_a_language_model_that_answers_otherwise_alone_is_refused(tmp_path: Path) -> None:
    """Granite divides its logits; inside of a LLaVA nobody does."""
    folder = save_tiny_llava(tmp_path / "vlm")
    text = GraniteConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=400, logits_scaling=8.0,
    )  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
    ).save_pretrained(folder)
    with pytest.raises(UserError, match=r"its language model alone \(GraniteForCausalLM\) says something else"):
        extract_language_model(folder, tmp_path / "lm")
    assert [path.name for path in tmp_path.iterdir()] == ["vlm"]


def test_a_run_and_a_recipe_are_checkpoints_too(llava: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """The adapter's model is known by its digest: here the run's own, and the one that a recipe of the run names."""
    monkeypatch.chdir(tmp_path)
    trained = get_peft_model(load_vlm(llava).model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    save_adapter(trained, tmp_path / "runs/x/dpo/adapter", trained_on=model_digest(llava))
    snapshot = "runs/x/instruct/snapshots/step-5"
    shutil.copytree("runs/x/dpo/adapter", f"{snapshot}/adapter")
    said = main(["extract-lm", "runs/x/dpo", "a"]), capsys.readouterr().err
    assert said == (2, said[1]) and "is neither in its run nor named by a recipe" in said[1]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/any.yaml").write_text(f"name: x\nmodel: {llava}\nreport: {{}}\n")
    assert main(["extract-lm", snapshot, "a"]) == 0
    assert f"{llava} with {snapshot}/adapter: LlamaForCausalLM" in capsys.readouterr().out
    assert main(["extract-lm", "recipes/any.yaml", "b", "--adapter", "runs/x/dpo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"]["tried"]["largest_difference"] == 0
    assert (tmp_path / "a/extracted_from").read_text() == (tmp_path / "b/extracted_from").read_text()
    save_tiny_llava(tmp_path / "runs/x/tune/model", seed=1)
    assert main(["extract-lm", "runs/x/tune", "c"]) == 0
    assert json.loads((tmp_path / "c/extracted_from").read_text())["model"] == model_digest(Path("runs/x/tune/model"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lm", "out"], "lm: llama is a language model already"),
        (["clip", "out"], "clip: clip_vision_model is a vision tower"),
        (["empty", "out"], "empty: no config.json, no model/ and no adapter/"),
        (["config", "out"], "config: no *.safetensors; download the weights too"),
        (["nowhere", "out"], "CHECKPOINT: nowhere is no folder"),
        (["vlm", "vlm"], "vlm: is not empty; nothing is overwritten"),
        (["vlm", "lm/config.json"], "lm/config.json: is a file"),
        (["vlm", "out", "--adapter", "lm"], "--adapter: lm holds no adapter_config.json"),
        (["vlm", "out", "--adapter", "other"], "other: was trained on another model"),
        (["runs", "out"], "name a stage: runs/tune"),
        (["recipe.yaml", "out"], "recipe.yaml: names no `model`"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    llava: Path, language: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vlm").symlink_to(llava)
    (tmp_path / "lm").symlink_to(language)
    save_clip(tmp_path / "clip")
    for name in ("empty", "config", "other", "runs/tune/model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "config/config.json").write_text('{"model_type": "llava"}')
    for name in ("adapter_config.json", "adapter_model.safetensors", "trained_on"):
        (tmp_path / "other" / name).write_text("{}")
    (tmp_path / "recipe.yaml").write_text("name: x\nreport: {}\n")
    assert main(["extract-lm", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_lm_eval_reads_the_folder_as_we_read_the_vlm(llava: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    extract_language_model(llava, tmp_path / "lm")
    vlm = load_vlm(llava)
    asked = [("USER: Name three fruits. ASSISTANT:", f" {word}.") for word in ("Apple", "Four", "The blue digit")]
    told = []
    for options in (
        {"pretrained": str(tmp_path / "lm"), "device": "cpu"},
        {"pretrained": vlm.model, "tokenizer": vlm.tokenizer, "backend": "causal", "max_length": vlm.n_positions},
    ):
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)]
        told.append(HFLM(**options, batch_size=2).loglikelihood(requests, disable_tqdm=True))
    assert told[0] == told[1] and len({value for value, _ in told[0]}) == 3
