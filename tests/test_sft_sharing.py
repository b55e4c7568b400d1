"""SteerLM's rows of one question share image and beginning: TRL's loss and gradient, and a wrong mask would show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_rig import LORA, in_double, lora, loss_and_gradient, save_sharp_llava, unlike_its_reference
from tiny_llava import ask_about, save_image, save_tiny_llava

from align.models.load import LoadedModel, load_vlm
from align.settings import Parts, Train
from align.train.lora_rows import TrainRow, as_dataset, collate_examples, example_row, items_of, measure_rows
from align.train.lora_run import train_lora
from align.train.preflight import costs, costs_of_questions
from annotate.records import Example, Image, Prompt

ASK = "\nPlease answer with Helpfulness:{},Correctness:{}"
ANSWERS = ("the 4 is blue", "no", "a red seven is not a picture", "maybe the pear")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return in_double(load_vlm(save_sharp_llava(tmp_path_factory.mktemp("sharp"))))


@pytest.fixture(scope="module")
def trainer(vlm: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Without `packed` in the batch it computes as TRL does."""
    from trl import SFTConfig

    from align.train.trainers import ExampleTrainer

    args = SFTConfig(
        output_dir=str(tmp_path_factory.mktemp("out")), use_cpu=True, bf16=False, gradient_checkpointing=False,
        max_length=None, report_to="none", disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    row = TrainRow(id="", prompt=ask_about(), images=(), completions=("a",))
    trainer = ExampleTrainer(
        model=vlm.model, args=args, train_dataset=as_dataset([row]),
        data_collator=lambda items: {}, processing_class=vlm.processor, peft_config=lora(), sharing=True,
    )  # fmt: skip
    return unlike_its_reference(trainer)


def steerlm_rows(root: Path, images: tuple[Image, ...], question: str) -> list[TrainRow]:
    """Four answers to one question, each with its scores after it."""
    asked = ask_about(*images, text=question)
    examples = [
        Example.of(
            prompt=ask_about(*images, text=question + ASK.format(4 - n, n)), completion=text, source="steerlm",
            meta={"prompt_id": asked.id},
        )
        for n, text in enumerate(ANSWERS)
    ]  # fmt: skip
    return [example_row(example, root) for example in examples]


@pytest.fixture(scope="module")
def rows(root: Path) -> list[TrainRow]:
    """Of one image, of two, and of none; in an order that has nothing to do with it."""
    a, b = (save_image(root, f"{name}.png", seed=i) for i, name in enumerate("ab"))
    made = [
        *steerlm_rows(root, (a,), "Which is blue?"),
        *steerlm_rows(root, (b, a), "Why?"),
        *steerlm_rows(root, (), "Hi"),
    ]
    return made[::2] + made[1::2]


def batch(vlm: LoadedModel, rows: list[TrainRow], *, sharing: bool) -> dict[str, Any]:
    made = collate_examples(rows, vlm.encoder, sharing=sharing)([{"row": list(range(len(rows)))}])
    return {name: value.to(vlm.model.dtype) if name == "pixel_values" else value for name, value in made.items()}


def test_rows_of_one_question_are_an_item(rows: list[TrainRow]) -> None:
    assert sorted(map(len, items_of(rows, by_prompt=True))) == [4, 4, 4]
    assert len(items_of(rows, by_prompt=False)) == 12


def test_the_beginning_is_shared_as_far_as_the_wishes_agree(vlm: LoadedModel, rows: list[TrainRow]) -> None:
    made, plain = (batch(vlm, rows, sharing=sharing) for sharing in (True, False))
    assert made["packed"]["input_ids"].shape[0] == 3
    assert made["pixel_values"].shape[0] == 2
    assert plain["pixel_values"].shape[0] == 12
    assert torch.equal(made["labels"], plain["labels"])
    first = made["packed"]["input_ids"][0][made["packed"]["segments"][0] == 0]
    beginning = vlm.tokenizer.decode(first).replace("<image>", "")
    assert beginning.endswith("Please answer with Helpfulness:")


def test_loss_gradient_and_measures_are_trls(trainer: Any, vlm: LoadedModel, rows: list[TrainRow]) -> None:
    found = []
    for sharing in (False, True):
        loss, gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=sharing))
        measures = {name: values[-1] for name, values in trainer._metrics["train"].items() if name != "num_tokens"}
        found.append((loss, gradient, measures))
    (theirs, their_gradient, expected), (ours, our_gradient, measured) = found
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert (our_gradient - their_gradient).abs().max() <= 1e-5 * their_gradient.abs().max()
    assert measured == pytest.approx(expected, rel=1e-5)
    assert expected.keys() == {"entropy", "mean_token_accuracy"}


@pytest.mark.parametrize("wrong", ["another answer is seen", "another image"])
def test_what_must_not_be_seen_moves_the_loss(
    trainer: Any, vlm: LoadedModel, rows: list[TrainRow], root: Path, wrong: str
) -> None:
    theirs, _ = loss_and_gradient(trainer, batch(vlm, rows, sharing=False))
    made = batch(vlm, rows, sharing=True)
    if wrong == "another image":
        made["pixel_values"] = made["pixel_values"].flip(0)
    else:
        segments = made["packed"]["segments"]
        made["packed"]["segments"] = torch.where(segments == 1, 0, segments)
    assert abs(loss_and_gradient(trainer, made)[0] - theirs) >= 1e-2


@pytest.mark.parametrize("parts", [Parts(), Parts(language="full", projector="full")], ids=["lora", "full"])
def test_a_training_that_shares_is_one_that_does_not(root: Path, tmp_path: Path, parts: Parts) -> None:
    """In float32, so not with the sharp model, which makes rounding large from step to step."""
    model = save_tiny_llava(tmp_path / "m")
    pictures = [save_image(root, f"t{i}.png", seed=i) for i in range(3)]
    rows = [row for i, image in enumerate(pictures) for row in steerlm_rows(root, (image,), f"Number {i}?")]
    trl = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 4, "learning_rate": 1e-4}
    made = [
        train_lora(
            method="sft",
            stage="steerlm",
            rows=rows,
            model=model,
            settings=Train(lora=LORA, parts=parts, batch_by="prompts", sharing=sharing, trl=trl),  # type: ignore[arg-type]
            seed=1,
            folder=tmp_path / sharing,
            progress=lambda done, total, note="": None,
        )
        for sharing in ("auto", "off")
    ]
    for name in ("loss", "grad_norm", "entropy"):
        assert [e[name] for e in made[0].log] == pytest.approx([e[name] for e in made[1].log], rel=1e-4), name
    assert made[0].notes == {"rows of one question": "share their image and what they begin with (the loss is TRL's)"}
    assert made[1].notes == {}


def test_prompts_are_what_they_are_where_no_wishes_were_added() -> None:
    prompt: Prompt = ask_about(text="Hi")
    assert TrainRow(id="x", prompt=prompt, images=(), completions=("a",)).question == prompt.id


def test_the_memory_estimate_counts_what_rows_of_a_question_share_once(vlm: LoadedModel, root: Path) -> None:
    """At most what is computed, and nearer to it than to the rows apart."""
    image = save_image(root, "m.png", seed=5)
    rows = steerlm_rows(root, (image,), "Which digit is blue?") + steerlm_rows(root, (), "Which?")
    measured, failures = measure_rows(rows, vlm.encoder, limit=None, stage="steerlm")
    assert not failures
    guessed = costs_of_questions(measured)
    collate = collate_examples(rows, vlm.encoder, sharing=True)
    packed = [collate([{"row": numbers}])["packed"]["input_ids"].shape[1] for numbers in items_of(rows, by_prompt=True)]
    apart = costs(measured, by_prompt=True, sharing=False)
    assert len(guessed) == len(packed) == 2
    for guess, needed, separate in zip(guessed, packed, apart, strict=True):
        assert needed <= guess < separate
