"""Tree decoding: the tokens of `generate`, from a cache that holds each prompt once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llava import CORPUS, ask_about, save_image, save_tiny_llava, save_tiny_llava_next
from transformers import MistralConfig, MistralForCausalLM

from align.models.encode import Encoder, left_pad
from align.models.load import LoadedModel, load_language_model, load_vlm
from align.models.tiny import build_tokenizer, token_ids
from align.sample.cache import InPlaceCache
from align.sample.engine import Ask, Decoding, generate
from align.sample.tree import Form, Writing, decode
from align.sample.ways import way_of
from annotate.records import Prompt

FREE = Decoding(temperature=1.5, max_new_tokens=16)
ENDS = list(range(100, 120))
"""Tokens that end an answer, about one in twenty: lengths differ, and whole prompts end early."""
FORMS: list[Form] = ["tree", "rows"]


def sharpened(loaded: LoadedModel) -> LoadedModel:
    """Attention that looks at few places: with flat attention a wrong mask would hardly move the scores."""
    loaded.model.generation_config.eos_token_id = ENDS
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")) and "vision" not in name:
                weight.mul_(2.5)
    return loaded


def mistral(folder: Path, *, window: int | None) -> LoadedModel:
    """A language model whose heads share keys and values, with a window or without."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(CORPUS, 400)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.2,
        max_position_embeddings=512,
        **token_ids(tokenizer),
    )
    MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sharpened(load_language_model(folder))


def eager(folder: Path) -> LoadedModel:
    loaded = sharpened(load_vlm(save_tiny_llava(folder)))
    loaded.model.set_attn_implementation("eager")
    return loaded


MAKERS: dict[str, Callable[[Path], LoadedModel]] = {
    "llava": lambda folder: sharpened(load_vlm(save_tiny_llava(folder))),
    "llava, eager attention": eager,
    "llava_next": lambda folder: sharpened(load_vlm(save_tiny_llava_next(folder))),
    "mistral": lambda folder: mistral(folder, window=None),
    "mistral with a window": lambda folder: mistral(folder, window=8),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    return {name: make(tmp_path_factory.mktemp("model") / "m") for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def asks(tmp_path_factory: pytest.TempPathFactory) -> list[Ask]:
    """Ragged: with one image, two, the same image twice, none; short and long."""
    root = tmp_path_factory.mktemp("pictures")
    a, b, c = (save_image(root, f"{i}.png", seed=i) for i in range(3))
    prompts = [
        ask_about(a),
        ask_about(text="Name a fruit."),
        ask_about(b, c, text="What differs between the first and the second picture?"),
        ask_about(text="Is there a red digit in the picture? Say yes or no, and why."),
        ask_about(c, text="Hm?"),
        ask_about(a, a, text="The same?"),
        ask_about(text="Hi"),
    ]
    return [_ask(p, root) for p in prompts]


def _ask(prompt: Prompt, root: Path) -> Ask:
    return Ask(key=prompt.id, turns=prompt.turns, images=tuple(root / image.path for image in prompt.images))


def seen_by(loaded: LoadedModel, asks: list[Ask]) -> list[Ask]:
    return asks if loaded.processor else [one for one in asks if not one.images]


@pytest.mark.parametrize(
    # a window is not in the tree's mask: `way_of` says rows
    ("name", "way"),
    [(name, way) for name in MAKERS for way in FORMS if (name, way) != ("mistral with a window", "tree")],
)
def test_the_tokens_are_those_of_generate(
    models: dict[str, LoadedModel], asks: list[Ask], name: str, way: Form
) -> None:
    loaded = models[name]
    shown = seen_by(loaded, asks)
    for n, decoding in [(2, Decoding(max_new_tokens=12)), (4, FREE)]:
        found = generate(loaded, shown, n=n, decoding=decoding, seed=3, way=way)
        assert found == generate(loaded, shown, n=n, decoding=decoding, seed=3, way="generate")
    assert {d.finish_reason for draws in found.draws for d in draws} == {"stop", "length"}


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("decoding", [FREE, Decoding(temperature=0.9, top_p=0.8, max_new_tokens=10)])
def test_any_number_of_completions(models: dict[str, LoadedModel], asks: list[Ask], n: int, decoding: Decoding) -> None:
    loaded = models["llava"]
    found, wanted = (generate(loaded, asks, n=n, decoding=decoding, seed=n, way=w) for w in ("tree", "generate"))
    assert found == wanted


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps_ahead", [1, 5])
def test_what_leaves_the_cache_is_missed_by_nobody(
    models: dict[str, LoadedModel], asks: list[Ask], form: Form, steps_ahead: int
) -> None:
    """Room for few steps at a time: rows and columns are let go of again and again."""
    loaded = models["llava"]
    for with_images in (True, False):
        batch = batch_of(loaded, [one for one in asks if bool(one.images) == with_images])
        seeds = [[10 * b + k for k in range(5)] for b in range(len(batch["input_ids"]))]
        same = {"limit": 24, "ends": frozenset(ENDS), "pad_id": 0, "temperature": 1.5}
        found = decode(loaded.model, batch, seeds, Writing(**same, steps_ahead=steps_ahead), form)
        assert found == decode(loaded.model, batch, seeds, Writing(**same, steps_ahead=64), form)
        assert len({len(w.ids) for row in found for w in row}) > 5


def batch_of(loaded: LoadedModel, asks: list[Ask]) -> dict[str, torch.Tensor]:
    return left_pad([loaded.encoder.prompt(one.turns, one.images) for one in asks], loaded.encoder.pad_id)


def test_a_prompt_is_read_once_and_what_has_ended_is_read_no_more(
    models: dict[str, LoadedModel], asks: list[Ask]
) -> None:
    loaded = models["llava"]
    batch = batch_of(loaded, [one for one in asks if one.images])
    shapes: list[tuple[int, ...]] = []
    towers: list[int] = []
    kept: list[int] = []

    def language(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["inputs_embeds"].shape[:2]))
        cache = kwargs["past_key_values"]
        assert isinstance(cache, InPlaceCache)
        kept.append(cache.n_bytes)

    hooks = [
        loaded.model.model.language_model.register_forward_pre_hook(language, with_kwargs=True),
        loaded.model.model.vision_tower.register_forward_pre_hook(lambda m, args: towers.append(len(args[0]))),
    ]
    seeds = [[10 * b + k for k in range(4)] for b in range(4)]
    writing = Writing(limit=40, ends=frozenset(range(100, 140)), pad_id=0, temperature=1.5)
    written = decode(loaded.model, batch, seeds, writing, "tree")
    for hook in hooks:
        hook.remove()
    longest = max(len(w.ids) for row in written for w in row)
    assert towers == [6]
    assert shapes[0] == batch["input_ids"].shape
    assert shapes[1] == (4, 4)
    assert len(shapes) == longest + 1
    # to the end only as many rows and positions as there is still something to write
    assert sorted(shapes[1:], reverse=True) == shapes[1:]
    assert shapes[-1][0] < 4
    assert shapes[-1][1] < 4
    # the largest cache holds each prompt once, and room for the four
    prompt, room, column = batch["input_ids"].shape[1], 4 * 40, 2 * 2 * 32 * 4
    assert max(kept) == 4 * (prompt + room) * column
    assert kept[-1] < max(kept)


def test_a_family_is_decoded_in_the_fastest_way_that_is_known_to_be_right(models: dict[str, LoadedModel]) -> None:
    assert {name: way_of(loaded.model) for name, loaded in models.items()} == {
        "llava": "tree",
        "llava, eager attention": "tree",
        "llava_next": "tree",
        "mistral": "tree",
        "mistral with a window": "rows",
    }
    model = models["llava"].model
    text = model.config.get_text_config()
    for attention, way in [("flash_attention_2", "rows"), ("flex_attention", "rows"), ("sdpa", "tree")]:
        text._attn_implementation = attention
        assert way_of(model) == way
    kept = text.rope_parameters
    text.rope_parameters = kept | {"rope_type": "dynamic"}
    assert way_of(model) == "generate"
    text.rope_parameters = kept


def test_another_family_is_decoded_by_generate_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer(CORPUS, 400)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, **token_ids(tokenizer))
    loaded = LoadedModel(
        model=GPT2LMHeadModel(config).eval(),
        tokenizer=tokenizer,
        processor=None,
        encoder=Encoder(tokenizer),
        digest="",
    )
    asks = [Ask(key=text, turns=ask_about(text=text).turns) for text in ("Hi", "Name a fruit.")]
    assert way_of(loaded.model) == "generate"
    first = generate(loaded, asks, n=2, decoding=FREE)
    assert first == generate(loaded, asks, n=2, decoding=FREE)
    said = [r.getMessage() for r in caplog.records if r.name == "align.sample.ways"]
    assert said == [
        "GPT2LMHeadModel is decoded by transformers' own `generate`: the faster ways are tested for llama, llava, "
        "llava_next, mistral only"
    ]
