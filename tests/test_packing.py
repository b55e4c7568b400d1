"""Completions that share one prompt in a packed row: the numbers are TRL's, and a wrong mask or image would show."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_rig import (
    batch,
    config,
    draw_rows,
    in_double,
    loss_and_gradient,
    measures,
    our_trainer,
    row_of,
    save_sharp_llava,
    unlike_its_reference,
)
from tiny_llava import ask_about, save_image, save_tiny_llava_next

from align.models.load import LoadedModel, load_vlm
from align.train.lora_rows import TrainRow, collate_preferences
from align.train.packing import IGNORED, PackRow, pack, visible, why_not_shared

LOSSES = (
    ("sigmoid", {}),
    ("hinge", {}),
    ("ipo", {}),
    ("exo_pair", {"label_smoothing": 1e-3}),
    ("nca_pair", {}),
    ("robust", {"label_smoothing": 0.1}),
    ("bco_pair", {}),
    ("sppo_hard", {}),
    ("aot", {}),
    ("aot_unpaired", {}),
    ("apo_zero", {}),
    ("apo_down", {}),
    ("discopop", {}),
    ("sft", {}),
    ("sigmoid_norm", {}),
    ("sigmoid", {"ld_alpha": 0.3}),
    ("sigmoid", {"use_weighting": True}),
    ("sigmoid", {"f_divergence_type": "js_divergence"}),
    ("sigmoid", {"f_divergence_type": "forward_kl"}),
    ("ipo", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return in_double(load_vlm(save_sharp_llava(tmp_path_factory.mktemp("sharp"))))


@pytest.fixture(scope="module")
def trainer(vlm: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Without `packed` in the batch it computes as TRL does."""
    return unlike_its_reference(our_trainer(vlm, config(tmp_path_factory.mktemp("out"), beta=0.5, use_weighting=True)))


# ------------------------------------------------------------------------------------------------- what is laid out


def test_two_completions_of_one_prompt_become_one_row() -> None:
    rows = [PackRow((1, 9, 9, 5, 6, 10, 2), start=5, images=(0,)), PackRow((1, 9, 9, 5, 6, 11, 12, 2), 5, (0,))]
    packed = pack(rows, pad_id=0, image_id=9)
    assert packed["input_ids"].tolist() == [[1, 9, 9, 5, 6, 10, 6, 11, 12]]
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 4, 5, 6]]
    assert packed["segments"].tolist() == [[0, 0, 0, 0, 1, 1, 2, 2, 2]]
    assert packed["labels"].tolist() == [[IGNORED] * 4 + [10, 2, 11, 12, 2]]
    # where the outputs of the packed row belong in TRL's [rows, width - 1]
    assert packed["gather"].tolist() == [[-1, -1, -1, -1, 4, 5, -1], [-1, -1, -1, -1, 6, 7, 8]]
    assert packed["images"] == [0]
    assert packed["images_of_rows"] == [0, 0]
    assert packed["n_image_tokens"] == 2
    assert packed["prefix"] == 4


def test_a_branch_sees_the_prefix_and_itself_and_nothing_behind_it() -> None:
    mask = visible(torch.tensor([[0, 0, 1, 1, 2, 2, -1]]))[0, 0].int().tolist()
    assert mask[:6] == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
    ]
    assert sum(mask[6]) > 0  # padding sees something: an empty softmax would be NaN
    rest = visible(torch.tensor([[0, 0, 1, 1, 2, 2, -1]]), prefix=2)[0, 0].int().tolist()
    assert rest == mask[2:]  # the prefix itself is plainly causal, and needs no mask


def test_equal_completions_are_computed_once_and_other_prompts_apart() -> None:
    a, b, other = PackRow((1, 5, 7, 2), 2), PackRow((1, 5, 8, 2), 2), PackRow((1, 4, 7, 2), 2)
    packed = pack([a, a, other, b, a], pad_id=0, image_id=None)
    assert packed["input_ids"].tolist() == [[1, 5, 7, 5, 8], [1, 4, 7, 0, 0]]
    assert packed["gather"].tolist() == [[-1, 1, 2], [-1, 1, 2], [-1, 6, 7], [-1, 3, 4], [-1, 1, 2]]


def test_one_question_about_two_images_is_not_one_prompt() -> None:
    packed = pack([PackRow((1, 9, 5, 7), 3, (0,)), PackRow((1, 9, 5, 8), 3, (1,))], pad_id=0, image_id=9)
    assert packed["input_ids"].shape[0] == 2
    assert packed["images"] == [0, 1]


def test_a_prompt_that_ends_with_its_image_is_not_shared() -> None:
    """The last prompt token stands in every branch, and an image cannot."""
    packed = pack([PackRow((1, 5, 9, 7), 3, (0,)), PackRow((1, 5, 9, 8), 3, (0,))], pad_id=0, image_id=9)
    assert packed["input_ids"].tolist() == [[1, 5, 9], [1, 5, 9]]
    assert packed["images"] == [0, 0]


def test_rows_named_together_share_what_they_have_in_common() -> None:
    """As SteerLM's: one image and question, then other wishes."""
    rows = [PackRow((1, 9, 5, 21, 6, 10, 2), 5, (0,)), PackRow((1, 9, 5, 22, 6, 11, 2), 5, (0,))]
    packed = pack(rows, pad_id=0, image_id=9, together=["q", "q"])
    assert packed["input_ids"].tolist() == [[1, 9, 5, 21, 6, 10, 22, 6, 11]]
    assert packed["labels"].tolist() == [[IGNORED] * 4 + [10, 2, IGNORED, 11, 2]]
    assert packed["gather"].tolist() == [[-1, -1, -1, -1, 4, 5], [-1, -1, -1, -1, 7, 8]]


def test_a_batch_shows_each_image_once(vlm: LoadedModel, root: Path) -> None:
    a, b = (save_image(root, f"{name}.png", seed=i) for i, name in enumerate("ab"))
    rows = [row_of(ask_about(a, text=t), root, "yes", "no") for t in ("x", "y")]
    rows.append(row_of(ask_about(b, a, a, text="z"), root, "yes", "no"))
    made = batch(vlm, rows, sharing=True)
    assert made["pixel_values"].shape[0] == 2  # TRL: 10
    assert made["packed"]["images"] == [0, 0, 1, 0, 0]
    whole = batch(vlm, rows, sharing=False)
    assert torch.equal(made["pixel_values"][made["packed"]["images_of_rows"]], whole["pixel_values"])


# -------------------------------------------------------------------------------------------------- equal to TRL's


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 24))])
def test_loss_gradient_and_measures_are_trls(trainer: Any, vlm: LoadedModel, root: Path, seed: int) -> None:
    """Random batches: 0 to 2 images, one twice, text alone, 2 to 6 completions, all pairs or best against the rest."""
    rows = draw_rows(root, seed=seed)
    theirs, their_gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=False))
    expected = measures(trainer)
    ours, our_gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=True))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert (our_gradient - their_gradient).abs().max() <= 1e-5 * their_gradient.abs().max()
    assert len(expected) == 10
    assert measures(trainer) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_log_probabilities_of_every_token_are_trls(trainer: Any, vlm: LoadedModel, root: Path) -> None:
    rows = draw_rows(root, seed=5)
    found = {}
    for sharing in (False, True):
        inputs = batch(vlm, rows, sharing=sharing)
        labels = inputs["input_ids"].masked_fill(inputs.pop("completion_mask") == 0, -100)
        out = trainer.model(**inputs, labels=labels, fused_lm_head=True, use_cache=False)
        found[sharing] = (out.log_probs, out.entropy, out.log_sum_sq_probs, out.mean_logits, out.loss)
        trained = labels[:, 1:] != -100
        assert torch.equal(out.label_mask, trained)
        assert torch.equal(out.log_probs != 0, trained)
    for ours, theirs in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(
            ours * trained if ours.ndim else ours, theirs * trained if theirs.ndim else theirs, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(("loss", "options"), LOSSES, ids=[f"{n}-{'-'.join(o) or 'plain'}" for n, o in LOSSES])
def test_every_loss_of_trl_is_the_same(
    trainer: Any, vlm: LoadedModel, root: Path, loss: str, options: dict[str, Any]
) -> None:
    plain = {"ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl", "label_smoothing": 0.0}
    before = {name: getattr(trainer, name) for name in plain}
    try:
        for name, value in (plain | options | {"loss_types": [loss]}).items():
            setattr(trainer, name, value)
        rows = draw_rows(root, seed=9)
        theirs, their_gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=False))
        ours, our_gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=True))
    finally:
        for name, value in (before | {"loss_types": ["sigmoid"]}).items():
            setattr(trainer, name, value)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert (our_gradient - their_gradient).abs().max() <= 1e-5 * their_gradient.abs().max()


def test_the_list_above_is_all_of_trls_losses(trainer: Any, vlm: LoadedModel, root: Path) -> None:
    trainer.loss_types = ["no such loss"]
    try:
        with pytest.raises(ValueError, match="Should be one of") as refused:
            trainer.compute_loss(trainer.model, batch(vlm, draw_rows(root, seed=0), sharing=True))
    finally:
        trainer.loss_types = ["sigmoid"]
    named = str(refused.value).split("one of ")[1]
    assert {name for name, _ in LOSSES} == set(named.strip("[]").replace("'", "").split(", "))


def test_llava_next_with_images_of_other_sizes_is_the_same(tmp_path: Path) -> None:
    vlm = in_double(load_vlm(save_tiny_llava_next(tmp_path / "next")))
    trainer = unlike_its_reference(our_trainer(vlm, config(tmp_path / "out", beta=0.5)))
    wide, tall = (
        save_image(tmp_path, "w.png", seed=1, size=(96, 40)),
        save_image(tmp_path, "t.png", seed=2, size=(30, 90)),
    )
    prompts = [ask_about(wide), ask_about(tall, wide, text="Which?"), ask_about(text="Hi")]
    rows = [row_of(p, tmp_path, "yes it is", no) for p in prompts for no in ("no", "red red red", "four")]
    theirs, their_gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=False))
    ours, our_gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=True))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert (our_gradient - their_gradient).abs().max() <= 1e-5 * their_gradient.abs().max()


# ------------------------------------------------------------------------------------------------ and would not be


@pytest.fixture
def sharp_batch(vlm: LoadedModel, root: Path) -> tuple[dict[str, Any], list[TrainRow]]:
    image = save_image(root, "seen.png", seed=5)
    rows = [row_of(ask_about(image, text=f"{t}?"), root, "red red pear", "four is not") for t in ("which", "what")]
    return batch(vlm, rows, sharing=True), rows


def test_a_rejected_that_sees_the_chosen_moves_the_loss(
    trainer: Any, vlm: LoadedModel, sharp_batch: tuple[dict[str, Any], list[TrainRow]]
) -> None:
    made, rows = sharp_batch
    theirs, _ = loss_and_gradient(trainer, batch(vlm, rows, sharing=False))
    segments = made["packed"]["segments"]
    made["packed"]["segments"] = torch.where(segments == 1, 0, segments)
    assert abs(loss_and_gradient(trainer, made)[0] - theirs) >= 1e-2


def test_another_image_moves_the_loss(
    trainer: Any, vlm: LoadedModel, root: Path, sharp_batch: tuple[dict[str, Any], list[TrainRow]]
) -> None:
    made, rows = sharp_batch
    theirs, _ = loss_and_gradient(trainer, batch(vlm, rows, sharing=False))
    other = save_image(root, "other.png", seed=77)
    made["pixel_values"] = batch(vlm, [row_of(ask_about(other), root, "a", "b")], sharing=True)["pixel_values"]
    assert abs(loss_and_gradient(trainer, made)[0] - theirs) >= 1e-2


def test_a_batch_with_an_image_too_many_tokens_is_refused(
    trainer: Any, sharp_batch: tuple[dict[str, Any], list[TrainRow]]
) -> None:
    made, _ = sharp_batch
    made["packed"]["images"] = made["packed"]["images"][:1]
    with pytest.raises(ValueError, match="Image features and image tokens do not match: 9 features, 18 tokens"):
        trainer.compute_loss(trainer.model, made)


# ------------------------------------------------------------------------------------------------------ and beyond


def test_the_tower_runs_once_for_policy_and_reference_and_outside_the_graph(tmp_path: Path, root: Path) -> None:
    vlm = load_vlm(save_sharp_llava(tmp_path / "m"))
    trainer = our_trainer(vlm, config(tmp_path / "out", gradient_checkpointing=True))
    tower = trainer.model.get_base_model().model.vision_tower
    calls: list[int] = []
    tower.register_forward_hook(lambda module, inputs, output: calls.append(len(output.last_hidden_state)))
    grown: list[str] = []
    tower.register_full_backward_hook(lambda *args: grown.append("gradient"))
    image = save_image(root, "once.png", seed=5)
    rows = [row_of(ask_about(image), root, "yes", no) for no in ("no", "maybe", "four")]
    loss_and_gradient(trainer, batch(vlm, rows, sharing=True))
    assert (calls, grown) == ([1], [])


def test_gradient_checkpointing_changes_nothing(trainer: Any, vlm: LoadedModel, root: Path) -> None:
    rows = draw_rows(root, seed=3)
    loss, gradient = loss_and_gradient(trainer, batch(vlm, rows, sharing=True))
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.model.enable_input_require_grads()
    try:
        again, same = loss_and_gradient(trainer, batch(vlm, rows, sharing=True))
    finally:
        trainer.model.gradient_checkpointing_disable()
        trainer.model.disable_input_require_grads()
    assert again == loss
    torch.testing.assert_close(same, gradient, rtol=1e-6, atol=1e-9)


def test_logits_for_compute_metrics_are_those_of_the_unpacked_rows(trainer: Any, vlm: LoadedModel, root: Path) -> None:
    rows = draw_rows(root, seed=6)
    trainer.model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL's, of the option and of transformers
            theirs = trainer.compute_loss(trainer.model, batch(vlm, rows, sharing=False), return_outputs=True)
            ours = trainer.compute_loss(trainer.model, batch(vlm, rows, sharing=True), return_outputs=True)
    finally:
        trainer.model.train()
    assert ours[0].item() == pytest.approx(theirs[0].item(), rel=1e-5)
    torch.testing.assert_close(ours[1].logits, theirs[1].logits)
    trainer._metrics["eval"].clear()


def test_other_models_keep_trls_layout_and_say_why(tmp_path: Path, vlm: LoadedModel) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    assert why_not_shared(vlm.model) == ""
    folder = save_sharp_llava(tmp_path / "m")
    eager = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    assert why_not_shared(eager) == "attention eager does not take the mask of a packed row; sdpa does"
    config = AutoConfig.from_pretrained(folder)
    config.text_config = AutoConfig.for_model("mistral", vocab_size=400, hidden_size=48, sliding_window=8)
    with torch.device("meta"):
        windowed = AutoModelForImageTextToText.from_config(config)
    assert why_not_shared(windowed) == "language models of type mistral are not among llama"


def test_batches_by_prompt_hold_whole_prompts(vlm: LoadedModel, root: Path) -> None:
    from align.train.lora_rows import as_dataset

    rows = [row_of(ask_about(text=f"{i % 3}"), root, "yes", f"no {i}") for i in range(8)]
    data = as_dataset(rows, by_prompt=True)
    assert data["row"][:] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    made = collate_preferences(rows, vlm.encoder, sharing=True)([data[0], data[2]])
    assert made["input_ids"].shape[0] == 2 * 5
    assert made["packed"]["input_ids"].shape[0] == 2
