"""Loading a model, and turning prompts into what it reads. Run on a real LLaVA with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_llava import ask_about, save_image, save_tiny_language_model, save_tiny_llava

from align.models.encode import left_pad
from align.models.load import LoadedModel, digest_of, load_language_model, load_vlm
from annotate.errors import UserError
from annotate.records import Turn


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LoadedModel:
    return load_vlm(folder)


def decode(loaded: LoadedModel, ids: list[int]) -> str:
    return loaded.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_the_model_reads_the_bytes_of_the_template(vlm: LoadedModel) -> None:
    turns = (
        Turn(role="user", text="Name a fruit."),
        Turn(role="assistant", text="Apple."),
        Turn(role="user", text="Another."),
    )
    ids = vlm.encoder.prompt(turns, ()).ids + vlm.encoder.completion(turns, "Pear.")
    assert decode(vlm, ids) == "<s>USER: Name a fruit. ASSISTANT: Apple.</s>USER: Another. ASSISTANT: Pear.</s>"
    assert decode(vlm, vlm.encoder.completion(turns, "Pear.")) == " Pear.</s>"


def test_each_placeholder_becomes_the_tokens_of_its_image(vlm: LoadedModel, tmp_path: Path) -> None:
    prompt = ask_about(save_image(tmp_path, "a.png", seed=1), text="Which?")
    encoded = vlm.encoder.prompt(prompt.turns, (tmp_path / "a.png",))
    # 48x48 pixels in patches of 16: 3 x 3
    assert decode(vlm, encoded.ids) == "<s>USER: " + "<image>" * 9 + "\nWhich? ASSISTANT:"
    assert encoded.images["pixel_values"].shape == (1, 3, 48, 48)


def test_images_stay_with_their_row_and_in_their_order(vlm: LoadedModel, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    images = [save_image(tmp_path, path.name, seed=i) for i, path in enumerate(paths)]
    two, none, one = ask_about(images[0], images[1]), ask_about(), ask_about(images[2])
    alone = [vlm.encoder.prompt(ask_about(images[i]).turns, (paths[i],)).images["pixel_values"] for i in range(3)]
    rows = [
        vlm.encoder.prompt(two.turns, paths[:2]),
        vlm.encoder.prompt(none.turns, ()),
        vlm.encoder.prompt(one.turns, paths[2:]),
    ]
    batch = left_pad(rows, vlm.encoder.pad_id)
    assert torch.equal(batch["pixel_values"], torch.cat(alone))
    placeholder = vlm.tokenizer.convert_tokens_to_ids("<image>")
    assert (batch["input_ids"] == placeholder).sum(dim=1).tolist() == [18, 0, 9]
    assert batch["input_ids"][1].tolist()[: -len(rows[1].ids)] == [vlm.encoder.pad_id] * (
        len(rows[0].ids) - len(rows[1].ids)
    )


@pytest.mark.parametrize("given", [0, 2])
def test_an_image_too_few_or_too_many_is_refused(vlm: LoadedModel, tmp_path: Path, given: int) -> None:
    prompt = ask_about(save_image(tmp_path, "a.png", seed=1))
    with pytest.raises(UserError, match=f"1 <image> placeholder.* but {given} image"):
        vlm.encoder.prompt(prompt.turns, (tmp_path / "a.png",) * given)


def test_a_completion_cannot_bring_its_own_image(vlm: LoadedModel) -> None:
    with pytest.raises(UserError, match="would be read as an image"):
        vlm.encoder.completion(ask_about().turns, "See <image>.")


def test_a_language_model_gets_the_same_bytes_and_no_images(vlm: LoadedModel, tmp_path: Path) -> None:
    backbone = load_language_model(save_tiny_language_model(tmp_path / "lm"))
    assert backbone.encoder.prompt(ask_about().turns, ()).ids == vlm.encoder.prompt(ask_about().turns, ()).ids
    seen = ask_about(save_image(tmp_path, "a.png", seed=1))
    with pytest.raises(UserError, match="only vision-language models see"):
        backbone.encoder.prompt(seen.turns, (tmp_path / "a.png",))


def test_the_processor_resizes_with_pillow(vlm: LoadedModel) -> None:
    assert vlm.processor is not None
    assert type(vlm.processor.image_processor).__name__ == "CLIPImageProcessorPil"


def test_the_digest_follows_weights_and_tokenizer_but_not_notes(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = digest_of(copy)
    assert before == digest_of(folder)
    (copy / "README.md").write_text("a note")
    assert digest_of(copy) == before
    (copy / "config.json").write_text((copy / "config.json").read_text().replace('"use_cache": true', '"use_cache": 1'))
    assert digest_of(copy) != before


def without(*patterns: str):  # type: ignore[no-untyped-def]
    def spoil(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return spoil


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "multi_modal_projector" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickle_instead(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def original_layout(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llava_llama"}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("config.json"), "no config.json"),
        (without("*.safetensors"), "download the weights too"),
        (pickle_instead, "convert its pickled weights to safetensors"),
        (drop_a_weight, "1 weight.* not in the files, e.g. model.multi_modal_projector"),
        (without("processor_config.json", "preprocessor_config.json", "tokenizer*"), "its processor cannot be loaded"),
        (original_layout, "the original LLaVA layout"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_named(folder: Path, tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    spoil(spoilt)
    with pytest.raises(UserError, match=message) as caught:
        load_vlm(spoilt)
    assert str(spoilt) in str(caught.value)


def test_a_missing_folder_and_a_language_model_in_place_of_a_vlm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        load_vlm(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"needed is a vision-language model.* names a language model as `backbone`"):
        load_vlm(save_tiny_language_model(tmp_path / "lm"))


def test_a_folder_that_is_no_adapter_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors; is it a finished adapter"):
        load_vlm(folder, adapter=tmp_path)


def test_an_adapter_of_another_model_is_refused_by_digest(folder: Path, tmp_path: Path) -> None:
    """Its shapes fit, so that it would be merged, and every answer spoiled."""
    from peft import LoraConfig, get_peft_model

    from align.train.saved import save_adapter

    other = save_tiny_llava(tmp_path / "other", seed=1)
    made = get_peft_model(load_vlm(other).model, LoraConfig(r=2, target_modules=r".*language_model.*q_proj"))
    adapter = tmp_path / "adapter"
    save_adapter(made, adapter, trained_on=digest_of(other))
    assert load_vlm(other, adapter=adapter).digest == digest_of(other, adapter)
    with pytest.raises(UserError) as told:
        load_vlm(folder, adapter=adapter)
    assert str(told.value) == (
        f"{adapter}: was trained on another model (sha256 {digest_of(other):.16}…) than {folder} "
        f"({digest_of(folder):.16}…); give that one, or delete the file trained_on there if it is meant"
    )
    (adapter / "trained_on").unlink()
    load_vlm(folder, adapter=adapter)  # an adapter that was made elsewhere says nothing
