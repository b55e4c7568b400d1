"""Drawing completions: what a prompt gets depends on nothing but itself, the model and the seed."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llava import (
    FolderContext,
    ask_about,
    run_stage,
    save_image,
    save_tiny_language_model,
    save_tiny_llava_next,
)

from align.context import PromptSet
from align.models.draws import SeededDraw, nucleus
from align.models.load import LoadedModel, load_language_model, load_vlm
from align.recipe import Recipe
from align.sample.batches import plan_batches
from align.sample.engine import Ask, Decoding, generate, score
from align.sample.stage import SampleWork, work
from align.settings import Sample
from annotate.records import Completion, Failure, Image, Prompt, Turn

HOT = Decoding(temperature=1.0, max_new_tokens=12)
GREEDY = Decoding(temperature=0.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LoadedModel:
    return load_vlm(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Image]]:
    root = tmp_path_factory.mktemp("pictures")
    return root, [save_image(root, f"{i}.png", seed=i) for i in range(4)]


def ask(prompt: Prompt, root: Path) -> Ask:
    return Ask(key=prompt.id, turns=prompt.turns, images=tuple(root / image.path for image in prompt.images))


def mixed_asks(root: Path, images: list[Image]) -> list[Ask]:
    """Text and image prompts of different lengths, one with two images."""
    prompts = [
        ask_about(images[0]),
        ask_about(text="Name a fruit."),
        ask_about(images[1], images[2], text="What differs between the first and the second picture?"),
        ask_about(text="Is there a red digit in the picture? Say yes or no, and why."),
        ask_about(images[3], text="Hm?"),
    ]
    return [ask(p, root) for p in prompts]


@pytest.mark.parametrize("decoding", [HOT, GREEDY, Decoding(temperature=0.7, top_p=0.8, max_new_tokens=12)])
def test_draws_do_not_depend_on_batch_mates(
    vlm: LoadedModel, pictures: tuple[Path, list[Image]], decoding: Decoding
) -> None:
    asks = mixed_asks(*pictures)
    together = generate(vlm, asks, n=3, decoding=decoding, seed=5).draws
    backwards = generate(vlm, asks[::-1], n=3, decoding=decoding, seed=5).draws[::-1]
    alone = [generate(vlm, [one], n=3, decoding=decoding, seed=5).draws[0] for one in asks]
    assert together == backwards == alone


def test_completions_of_a_prompt_differ_and_follow_the_seed(
    vlm: LoadedModel, pictures: tuple[Path, list[Image]]
) -> None:
    asks = mixed_asks(*pictures)
    first, again, other = (generate(vlm, asks, n=4, decoding=HOT, seed=s).draws for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert all(len({draw.text for draw in draws}) == 4 for draws in first)
    # two prompts that read the same, but are not the same, have draws of their own
    twins = [Ask(key=key, turns=asks[1].turns) for key in ("a", "b")]
    one, two = generate(vlm, twins, n=4, decoding=HOT).draws
    assert one != two
    # the k-th completion is the same, however many are asked for
    assert [draws[:2] for draws in first] == generate(vlm, asks, n=2, decoding=HOT, seed=0).draws


def test_the_first_image_is_the_first(vlm: LoadedModel, pictures: tuple[Path, list[Image]]) -> None:
    root, (a, b, *_) = pictures
    draws = [generate(vlm, [ask(ask_about(*order), root)], decoding=GREEDY).draws for order in ((a, b), (b, a))]
    assert draws[0] != draws[1]


def test_texts_carry_no_special_tokens_and_say_how_they_ended(
    vlm: LoadedModel, pictures: tuple[Path, list[Image]]
) -> None:
    asks = mixed_asks(*pictures)
    draws = [
        d for ds in generate(vlm, asks, n=16, decoding=Decoding(temperature=1.5, max_new_tokens=60)).draws for d in ds
    ]
    assert {d.finish_reason for d in draws} == {"stop", "length"}
    for draw in draws:
        assert draw.text == draw.text.strip()
        assert not {"</s>", "<s>", "<pad>"} & set(draw.text.split())
        assert (draw.n_tokens == 60) if draw.finish_reason == "length" else (draw.n_tokens < 60)


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    processor = SeededDraw([7], temperature=0.5, top_p=1.0)
    drawn = Counter(processor(torch.zeros(1, 1), logits).argmax().item() for _ in range(4000))
    weights = [math.exp(2 * value) for value in (0.0, 1.0, 2.0, -1.0)]
    for token, weight in enumerate(weights):
        expected = weight / sum(weights)
        # four standard errors of a share of 4000
        assert abs(drawn[token] / 4000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]]).log()
    # 0.5 + 0.3 reaches 0.8; the order of tokens plays no part
    assert nucleus(logits, 0.79).isfinite().tolist() == [[True, True, False, False], [False, False, True, True]]
    assert nucleus(logits, 0.4).isfinite().tolist() == [[True, False, False, False], [False, False, False, True]]


def test_score_is_the_log_probability_of_the_whole_answer(vlm: LoadedModel, pictures: tuple[Path, list[Image]]) -> None:
    asks = mixed_asks(*pictures)
    options = [["yes", "no, never"], ["apple"], ["a", "b", "the picture is red"], ["no"], ["7"]]
    found = score(vlm, asks, options)
    for one, texts, values in zip(asks, options, found, strict=True):
        prompt = vlm.encoder.prompt(one.turns, one.images)
        for text, value in zip(texts, values, strict=True):
            after = vlm.encoder.completion(one.turns, text)
            with torch.inference_mode():
                logits = vlm.model(input_ids=torch.tensor([prompt.ids + after]), **prompt.images).logits[0]
            logps = logits.log_softmax(-1)
            expected = sum(logps[len(prompt.ids) + i - 1, token].item() for i, token in enumerate(after))
            assert value == pytest.approx(expected, abs=1e-3)


def test_a_language_model_answers_and_scores_through_the_same_door(tmp_path: Path) -> None:
    backbone = load_language_model(save_tiny_language_model(tmp_path))
    asks = [Ask(key="a", turns=ask_about(text="Name a fruit.").turns), Ask(key="b", turns=ask_about(text="Hi").turns)]
    together = generate(backbone, asks, n=2, decoding=HOT).draws
    assert together == [generate(backbone, [one], n=2, decoding=HOT).draws[0] for one in asks]
    both = score(backbone, asks, [["apple", "plum pear"], ["no"]])
    assert both[0] == pytest.approx(score(backbone, asks[:1], [["apple", "plum pear"]])[0])
    assert both[1] == pytest.approx(score(backbone, asks[1:], [["no"]])[0])


def test_another_family_speaks_its_own_template(tmp_path: Path) -> None:
    other = load_vlm(save_tiny_llava_next(tmp_path / "next"))
    # square, wide and large: 3, 3 and 5 patches
    images = [save_image(tmp_path, f"{i}.png", seed=i, size=s) for i, s in enumerate(((48, 48), (96, 48), (96, 96)))]
    prompts = [ask_about(images[0]), ask_about(images[1], images[2]), ask_about(text="Hi"), ask_about(images[2])]
    asks = [ask(p, tmp_path) for p in prompts]
    assert other.encoder.render(prompts[0].turns, "Yes.") == (
        "[user] <image>\nWhich digit is blue?[assistant] ",
        "Yes.</s>",
    )
    together = generate(other, asks, n=2, decoding=HOT).draws
    assert together == [generate(other, [one], n=2, decoding=HOT).draws[0] for one in asks]
    both = score(other, asks, [["a", "the blue"]] * 4)
    for one, values in zip(asks, both, strict=True):
        assert values == pytest.approx(score(other, [one], [["a", "the blue"]])[0], abs=1e-4)


def test_batches_keep_like_with_like_whatever_the_order(pictures: tuple[Path, list[Image]]) -> None:
    _, images = pictures
    prompts = [ask_about(text="x" * n) for n in (5, 50, 6)] + [ask_about(images[0]), ask_about(images[0], images[1])]
    batches = plan_batches(prompts, 2, lambda p: p.turns)
    assert batches == [[prompts[0], prompts[2]], [prompts[1]], [prompts[3]], [prompts[4]]]


# ------------------------------------------------------------------------------------------------------- the stage


def make_work(folder: Path, root: Path, prompts: list[Prompt], **settings: Any) -> SampleWork:
    options = {"n": 2, "temperature": 0.7, "max_new_tokens": 12, "batch_size": 2} | settings
    context = FolderContext(
        recipe=Recipe(path=root / "r.yaml", seed=3, sample=Sample(**options)),
        stage="sample",
        model=folder,
        prompt_set=PromptSet(prompts=tuple(prompts), failures=(), duplicates=0, root=root),
    )
    return work(context)


def test_every_prompt_gets_n_completions_in_order(
    folder: Path, pictures: tuple[Path, list[Image]], tmp_path: Path
) -> None:
    root, images = pictures
    prompts = [ask_about(images[0]), ask_about(text="Name a fruit."), ask_about(images[1], images[2])]
    compiled, _ = run_stage(make_work(folder, root, prompts), tmp_path)
    completions = list(compiled.files["completions.jsonl"])  # type: ignore[arg-type]
    assert [(c.prompt_id, c.index) for c in completions] == [(p.id, k) for p in prompts for k in range(2)]
    assert {c.seed for c in completions} == {3}
    assert {tuple(c.decoding.items()) for c in completions} == {
        (("temperature", 0.7), ("top_p", 1.0), ("max_new_tokens", 12))
    }
    assert (compiled.units, compiled.outputs, compiled.failures) == (3, 3, 0)
    assert Completion.from_json(completions[0].to_json()) == completions[0]
    again, _ = run_stage(make_work(folder, root, prompts), tmp_path)
    assert list(again.files["completions.jsonl"]) == completions  # type: ignore[arg-type]


def test_an_image_changed_since_the_check_and_a_long_prompt_are_failures(folder: Path, tmp_path: Path) -> None:
    changed, lost, good = (save_image(tmp_path, f"{name}.png", seed=i) for i, name in enumerate("clg"))
    prompts = [
        ask_about(good),
        ask_about(changed),
        ask_about(lost),
        # 512 positions are all the model has
        Prompt.of((Turn(role="user", text="why " * 600),)),
    ]
    save_image(tmp_path, "c.png", seed=99)
    (tmp_path / "l.png").unlink()
    compiled, _ = run_stage(make_work(folder, tmp_path, prompts), tmp_path)
    failures: list[Failure] = list(compiled.files["failures.jsonl"])  # type: ignore[arg-type]
    assert [(f.record_id, f.reason.value) for f in failures] == [
        (prompts[1].id, "image_unreadable"),
        (prompts[2].id, "image_unreadable"),
        (prompts[3].id, "too_long"),
    ]
    assert "changed since it was checked" in failures[0].detail
    assert "the model takes 512" in failures[2].detail
    assert not any(str(tmp_path) in f.detail for f in failures)
    assert (compiled.units, compiled.outputs, compiled.failures) == (4, 1, 3)
    assert {c.prompt_id for c in compiled.files["completions.jsonl"]} == {prompts[0].id}  # type: ignore[union-attr]


def test_a_key_changes_with_what_decides_the_draws(folder: Path, pictures: tuple[Path, list[Image]]) -> None:
    root, images = pictures
    prompts = [ask_about(images[0]), ask_about(images[1])]

    def keys(**settings: Any) -> list[str]:
        return [unit.key for unit in make_work(folder, root, prompts, **settings).units]

    assert keys() == keys()
    for change in ({"n": 3}, {"temperature": 0.8}, {"top_p": 0.9}, {"max_new_tokens": 13}, {"batch_size": 1}):
        assert not set(keys(**change)) & set(keys()), change
