"""A LLaVA out of a language model and a CLIP: it says what the language model said, and any tool can load it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_llava import ask_about, save_image, save_tiny_llava
from tiny_parts import MARKS, save_clip, save_language_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from align.models.joined import ahead_of_joining, join
from align.models.load import load_language_model, load_vlm
from annotate.errors import UserError
from annotate.records import Turn

TALK = (
    Turn(role="user", text="Which digit is blue?"),
    Turn(role="assistant", text="The 4 is."),
    Turn(role="user", text="Sure?"),
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("parts") / "clip")


@pytest.mark.parametrize("family", MARKS)
def test_it_says_on_text_what_the_language_model_says(family: str, clip: Path, tmp_path: Path) -> None:
    language = save_language_model(tmp_path / "lm", family)
    join(language, clip, tmp_path / "vlm")
    before, after = load_language_model(language), load_vlm(tmp_path / "vlm")
    ids = before.encoder.prompt(TALK, ()).ids + before.encoder.completion(TALK, "Yes.")
    assert after.encoder.prompt(TALK, ()).ids + after.encoder.completion(TALK, "Yes.") == ids
    assert before.tokenizer.decode(ids) == (
        f"{before.tokenizer.bos_token or ''}USER: Which digit is blue? ASSISTANT: The 4 is.{before.tokenizer.eos_token}"
        f"USER: Sure? ASSISTANT: Yes.{before.tokenizer.eos_token}"
    )
    with torch.no_grad():
        alone, inside = (m.model(input_ids=torch.tensor([ids])).logits for m in (before, after))
    assert torch.equal(inside[..., : alone.shape[-1]], alone)


def test_the_image_token_is_new_and_its_rows_are_the_mean(clip: Path, tmp_path: Path) -> None:
    language = save_language_model(tmp_path / "lm", "llama")
    join(language, clip, tmp_path / "vlm")
    vlm = load_vlm(tmp_path / "vlm")
    table = vlm.model.get_input_embeddings().weight
    known = AutoModelForCausalLM.from_pretrained(language).get_input_embeddings().weight
    assert vlm.encoder.image_id == len(known)
    assert len(table) == 384 > len(known)  # a multiple of 64
    assert torch.equal(table[: len(known)], known)
    assert torch.allclose(table[len(known) :], known.mean(dim=0))


def test_spare_rows_take_the_image_token(clip: Path, tmp_path: Path) -> None:
    join(save_language_model(tmp_path / "lm", "qwen2", rows=448), clip, tmp_path / "vlm")
    vlm = load_vlm(tmp_path / "vlm")
    assert vlm.encoder.image_id is not None
    assert vlm.encoder.image_id < 448 == len(vlm.model.get_input_embeddings().weight)
    assert vlm.model.lm_head.weight is vlm.model.get_input_embeddings().weight  # still one table


def test_it_sees_nine_patches_through_the_layer_that_was_asked_for(clip: Path, tmp_path: Path) -> None:
    language = save_language_model(tmp_path / "lm")
    prompt = ask_about(save_image(tmp_path, "a.png", seed=1, size=(64, 50)))
    shown = []
    for layer in (-2, -1):
        join(language, clip, tmp_path / f"vlm{layer}", feature_layer=layer)
        vlm = load_vlm(tmp_path / f"vlm{layer}")
        encoded = vlm.encoder.prompt(prompt.turns, [tmp_path / "a.png"])
        assert encoded.ids.count(vlm.encoder.image_id or -1) == 9
        with torch.no_grad():
            shown.append(vlm.model(input_ids=torch.tensor([encoded.ids]), **encoded.images).logits)
    assert not torch.equal(*shown)


def test_a_projector_of_one_layer_is_one_matrix(clip: Path, tmp_path: Path) -> None:
    join(save_language_model(tmp_path / "lm"), clip, tmp_path / "vlm", projector="linear", seed=3)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "vlm")
    weights = load_file(tmp_path / "vlm" / "model.safetensors")
    found = {
        kind: next(value for name, value in weights.items() if name.endswith(f"linear_1.{kind}"))
        for kind in ("weight", "bias")
    }
    features = torch.randn(5, 32)
    with torch.no_grad():
        projected = model.model.multi_modal_projector(features)
    assert torch.equal(projected, torch.nn.functional.linear(features, **found))


def test_the_same_seed_draws_the_same_projector(clip: Path, tmp_path: Path) -> None:
    language = save_language_model(tmp_path / "lm")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        join(language, clip, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_other_tools_render_the_same_bytes(family: str, clip: Path, tmp_path: Path) -> None:
    join(save_language_model(tmp_path / "lm", family), clip, tmp_path / "vlm")
    encoder = load_vlm(tmp_path / "vlm").encoder
    turns = (*ask_about(save_image(tmp_path, "a.png", seed=1)).turns, *TALK[1:])
    messages = [{"role": t.role, "content": [{"type": "text", "text": t.text}]} for t in turns]
    messages[0]["content"] = [{"type": "image"}, {"type": "text", "text": turns[0].text.removeprefix("<image>\n")}]
    theirs = AutoProcessor.from_pretrained(tmp_path / "vlm", backend="pil").apply_chat_template(messages)
    assert theirs == encoder.render(turns)[0]


def test_what_cannot_be_put_together_is_told_and_nothing_is_left(clip: Path, tmp_path: Path) -> None:
    language = save_language_model(tmp_path / "lm")
    with pytest.raises(UserError, match=r"lm: llama is no tower that is known here; take a CLIP"):
        join(language, language, tmp_path / "vlm")
    vlm = save_tiny_llava(tmp_path.parent / f"{tmp_path.name}-llava")
    for made in (join, lambda *named: ahead_of_joining(*named[:2])):
        with pytest.raises(UserError, match=r"clip: clip\w* is a vision tower, no language model"):
            made(clip, clip, tmp_path / "vlm")
        with pytest.raises(UserError, match=r"llava: llava is a VLM; `align extract-lm` takes its language model out"):
            made(vlm, clip, tmp_path / "vlm")
    with pytest.raises(UserError, match=r"the projector does not fit"):
        join(language, clip, tmp_path / "vlm", weights={"linear_1.weight": torch.zeros(3, 3)})
    assert [path.name for path in tmp_path.iterdir()] == ["lm"]


def test_a_tower_of_pickled_weights_is_read_without_running_them(clip: Path, tmp_path: Path) -> None:
    """CLIP on the hub has no safetensors."""
    old = tmp_path / "clip"
    old.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (old / name).write_bytes((clip / name).read_bytes())
    torch.save(load_file(clip / "model.safetensors"), old / "pytorch_model.bin")
    language = save_language_model(tmp_path / "lm")
    join(language, old, tmp_path / "a")
    join(language, clip, tmp_path / "b")
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
