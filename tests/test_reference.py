"""The reference's log-probabilities: computed once, TRL's numbers, found again only by whom they are for."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dpo_rig import LORA, batch, config, draw_rows, in_double, our_trainer, row_of, save_sharp_llava, trl_trainer
from tiny_llava import ask_about, save_image, save_tiny_llava

from align.models.load import LoadedModel, load_vlm
from align.settings import Train
from align.train.lora_rows import TrainRow, measure_rows, spoken
from align.train.lora_run import Trained, train_lora
from align.train.preference import Shortcuts, made_by
from align.train.reference import Asked, MadeBy, ReferenceCache, asked_of
from annotate.errors import UserError
from annotate.records import sha256_of

HERE = MadeBy(model="m", adapter="", processor="p", template="t", precision="float32", software="s")


def silent(done: int, total: int, note: str = "") -> None:
    return None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def vlm(folder: Path) -> LoadedModel:
    return load_vlm(folder)


def asked(vlm: LoadedModel, rows: Sequence[TrainRow]) -> list[Asked]:
    measured, failures = measure_rows(rows, vlm.encoder, limit=None, stage="dpo")
    assert not failures
    return asked_of(measured)


def counted(scored: list[list[str]], vlm: LoadedModel) -> Any:
    """A score that is the token's own number, and notes what it was asked."""

    def score(batch: Sequence[tuple[TrainRow, str]]) -> list[array[float]]:
        scored.append([text for _, text in batch])
        return [array("f", [-float(i) for i in spoken(row, text, vlm.encoder).after]) for row, text in batch]

    return score


def adapter_sha256(trained: Any) -> str:
    return hashlib.sha256((trained.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


# -------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("ld_alpha", [None, 0.4])
def test_they_are_what_trl_computes_for_each_batch(tmp_path: Path, root: Path, ld_alpha: float | None) -> None:
    """Two images, one twice, text alone; 2 to 6 completions; sharp attention."""
    vlm = in_double(load_vlm(save_sharp_llava(tmp_path / "sharp")))
    args = config(tmp_path / "out", ld_alpha=ld_alpha, per_device_train_batch_size=1)
    shortcuts = Shortcuts.of(vlm, Train(), args, tmp_path / "kept")
    trainer = our_trainer(vlm, args)
    rows = [row for seed in range(4) for row in draw_rows(root, seed=seed)]
    sums = shortcuts.reference
    assert sums is not None
    shortcuts.fill(trainer, measure_rows(rows, vlm.encoder, limit=None, stage="dpo")[0], vlm.encoder, silent)
    whole = batch(vlm, rows, sharing=False)
    chosen, rejected = trainer.compute_ref_log_probs(trainer.model, whole)
    ours = batch(vlm, rows, sharing=True, reference=sums)
    torch.testing.assert_close(ours["ref_chosen_logps"], chosen.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours["ref_rejected_logps"], rejected.float(), rtol=1e-5, atol=1e-5)


def test_a_run_of_six_steps_is_trls(folder: Path, root: Path, tmp_path: Path) -> None:
    """Pairs of three prompts, accumulated over two batches: every logged measure, and the adapter in the end."""
    a, b = (save_image(root, f"{name}.png", seed=i) for i, name in enumerate("ab"))
    prompts = [ask_about(a), ask_about(b, a, text="Which?"), ask_about(text="Hi")]
    rows = [row_of(p, root, "The 4 is blue.", no) for p in prompts for no in ("No", "Maybe it is not", "Red")]
    options = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
    }
    ours = train_lora(
        method="dpo",
        stage="dpo",
        rows=rows,
        model=folder,
        settings=Train(lora=LORA, trl=options),
        seed=1,
        folder=tmp_path / "ours",
        progress=silent,
    )
    theirs = trl_trainer(load_vlm(folder), rows, config(tmp_path / "theirs", **options))
    theirs.train()
    logged = [entry for entry in theirs.state.log_history if "loss" in entry]
    unlogged = {"num_tokens", "logits/chosen", "logits/rejected", "step"}  # of each batch, not of what is learnt
    names = set(logged[0]) - unlogged
    assert {"loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "epoch"} < names
    assert names == set(ours.log[0]) - {"step"}
    assert len({n.split("/")[0] for n in names}) == 8
    for name in sorted(names):
        assert [e[name] for e in ours.log] == pytest.approx([e[name] for e in logged], rel=1e-4, abs=2e-6), name
    from safetensors.torch import load_file

    trained = load_file(ours.adapter / "adapter_model.safetensors")
    for name, value in theirs.model.state_dict().items():
        if ".default." in name:
            torch.testing.assert_close(trained[name.replace(".default.", ".")], value, rtol=1e-4, atol=1e-5)
    assert ours.notes == {
        "completions of one prompt": "share its image and question (the loss is TRL's)",
        "reference log-probabilities": "computed once, before the first step",
    }


def three_steps(folder: Path, root: Path, workspace: Path, **settings: Any) -> Trained:
    trl = {"per_device_train_batch_size": 2, "max_steps": 3, "learning_rate": 1e-2}
    return train_lora(
        method="dpo",
        stage="dpo",
        rows=draw_rows(root, seed=4)[:4],
        model=folder,
        settings=Train(lora=LORA, trl=trl, **settings),
        seed=1,
        folder=workspace,
        progress=silent,
    )


@pytest.fixture(scope="module")
def short_way(folder: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return three_steps(folder, root, tmp_path_factory.mktemp("short"))


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ({"sharing": "off"}, "one row each, as TRL computes them (switched off in the recipe)"),
        ({"reference": "live"}, "computed at every step (as the recipe says)"),
        ({"sharing": "off", "reference": "live"}, "computed at every step (as the recipe says)"),
    ],
)
def test_the_long_way_gives_the_same(
    folder: Path, root: Path, tmp_path: Path, short_way: Trained, settings: dict[str, Any], notes: str
) -> None:
    trained = three_steps(folder, root, tmp_path, **settings)
    assert notes in trained.notes.values()
    short, long = short_way.log, trained.log
    for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen"):
        assert [e[name] for e in short] == pytest.approx([e[name] for e in long], rel=1e-4, abs=2e-6), name
    assert short[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


# --------------------------------------------------------------------------------------------------------- on the disk


def test_nothing_is_computed_twice(vlm: LoadedModel, root: Path, tmp_path: Path) -> None:
    """Not in another epoch, not for another pair of the same completions, not by another run."""
    prompt = ask_about(save_image(root, "c.png", seed=3))
    rows = [row_of(prompt, root, "a", "b"), row_of(prompt, root, "a", "c"), row_of(prompt, root, "b", "c")]
    scored: list[list[str]] = []
    cache = ReferenceCache(tmp_path, HERE)
    assert cache.fill(asked(vlm, rows), counted(scored, vlm), size=8, progress=silent) == 3
    assert [len(batch) for batch in scored] == [3]
    again = ReferenceCache(tmp_path, HERE)
    assert again.fill(asked(vlm, rows), counted(scored, vlm), size=8, progress=silent) == 0
    more = [*rows, row_of(prompt, root, "a", "d")]
    assert again.fill(asked(vlm, more), counted(scored, vlm), size=8, progress=silent) == 1
    tokens = spoken(rows[0], "a", vlm.encoder).after
    found = ReferenceCache(tmp_path, HERE).per_token(rows[0], "a", len(tokens))
    assert list(found) == [-float(i) for i in tokens]
    assert [path.name for path in tmp_path.iterdir()] == [f"{HERE.name}.jsonl"]


@pytest.mark.parametrize("part", [field.name for field in dataclasses.fields(MadeBy)])
def test_another_origin_finds_nothing_and_a_file_of_another_origin_is_refused(
    vlm: LoadedModel, root: Path, tmp_path: Path, part: str
) -> None:
    groups = asked(vlm, [row_of(ask_about(text="Hi"), root, "a", "b")])
    kept = ReferenceCache(tmp_path, HERE)
    kept.fill(groups, counted([], vlm), size=8, progress=silent)
    other = dataclasses.replace(HERE, **{part: "another"})
    scored: list[list[str]] = []
    fresh = ReferenceCache(tmp_path, other)
    assert fresh.fill(groups, counted(scored, vlm), size=8, progress=silent) == 2
    assert len(scored) == 1
    fresh.path.unlink()
    kept.path.rename(fresh.path)  # as if copied, or named by hand
    with pytest.raises(UserError, match=f"of another origin .{part} '{getattr(HERE, part)}', here 'another'.; delete"):
        ReferenceCache(tmp_path, other)


def test_the_real_origin_tells_models_precisions_and_processors_apart(tmp_path: Path) -> None:
    vlm, args = load_vlm(save_tiny_llava(tmp_path / "a")), config(tmp_path / "out")
    known = made_by(vlm, args)
    assert made_by(load_vlm(save_tiny_llava(tmp_path / "b", seed=1)), args).model != known.model
    assert known.precision == "float32"
    vlm.processor.image_processor.image_mean = [0.0, 0.0, 0.0]  # type: ignore[union-attr]
    assert made_by(vlm, args).processor != known.processor
    vlm.model.to(torch.bfloat16)
    assert made_by(vlm, args).precision == "bfloat16"


def test_every_part_of_a_row_counts(root: Path, tmp_path: Path) -> None:
    """Question, answer, and the content of the images, whatever their names."""
    cache = ReferenceCache(tmp_path, HERE)
    one, two = save_image(root, "one.png", seed=1), save_image(root, "two.png", seed=2)
    copy = save_image(root, "copy.png", seed=1)
    rows = [
        (ask_about(one), "yes"),
        (ask_about(one), "no"),
        (ask_about(two), "yes"),
        (ask_about(one, two), "yes"),
        (ask_about(two, one), "yes"),
        (ask_about(one, text="What?"), "yes"),
        (ask_about(), "yes"),
    ]
    keys = [cache.key(row_of(prompt, root, text, ""), text) for prompt, text in rows]
    assert len(set(keys)) == 7
    assert cache.key(row_of(ask_about(copy), root, "yes", ""), "yes") == keys[0]
    save_image(root, "one.png", seed=9)  # the same name, another picture
    changed = ReferenceCache(tmp_path, HERE)
    assert changed.key(row_of(ask_about(one), root, "yes", ""), "yes") != keys[0]


def test_half_a_line_is_cut_off_and_its_batch_done_again(vlm: LoadedModel, root: Path, tmp_path: Path) -> None:
    rows = [row_of(ask_about(text=f"q{i}"), root, "a", "b") for i in range(4)]
    groups = asked(vlm, rows)
    cache = ReferenceCache(tmp_path, HERE)
    cache.fill(groups, counted([], vlm), size=4, progress=silent)
    whole = cache.path.read_bytes()
    cut = whole.rstrip(b"\n").rfind(b"\n") + 40
    cache.path.write_bytes(whole[:cut])
    scored: list[list[str]] = []
    again = ReferenceCache(tmp_path, HERE)
    assert again.fill(groups, counted(scored, vlm), size=4, progress=silent) == 2
    assert [len(batch) for batch in scored] == [4]  # the batch as it was, so that its numbers are the same bytes
    strip = [json.loads(line)["line"] for line in whole.splitlines()]
    assert [json.loads(line)["line"] for line in again.path.read_bytes().splitlines()] == strip


def test_a_damaged_file_is_refused(vlm: LoadedModel, root: Path, tmp_path: Path) -> None:
    row = row_of(ask_about(text="Hi"), root, "a b c", "b")
    cache = ReferenceCache(tmp_path, HERE)
    cache.fill(asked(vlm, [row]), counted([], vlm), size=8, progress=silent)
    lines = cache.path.read_text().splitlines()
    entry = json.loads(lines[1])
    entry["line"] = {key: "AACAvwAAgL8=" for key in entry["line"]}
    cache.path.write_text("\n".join([lines[0], json.dumps(entry), ""]))
    with pytest.raises(UserError, match=r"damaged .a line is not as it was written.; delete the file"):
        ReferenceCache(tmp_path, HERE)
    for faulty in ([], None, {"key": 7}, {"key": "AAC"}):
        bad = {"key": sha256_of(faulty), "seconds": 0, "line": faulty}
        cache.path.write_text("\n".join([lines[0], json.dumps(bad), ""]))
        with pytest.raises(UserError, match=r"damaged .*; delete the file"):
            ReferenceCache(tmp_path, HERE)
    entry["key"] = sha256_of(entry["line"])
    cache.path.write_text("\n".join([lines[0], json.dumps(entry), ""]))
    with pytest.raises(UserError, match=r"2 numbers for 5 tokens; delete the file"):
        ReferenceCache(tmp_path, HERE).per_token(row, "a b c", 5)
    cache.path.write_text("\n".join([lines[0], lines[1][:30], lines[1], ""]))
    with pytest.raises(UserError, match="2: not a line of this journal"):
        ReferenceCache(tmp_path, HERE)
    cache.path.write_text(lines[1] + "\n")
    with pytest.raises(UserError, match="model 'unknown', here 'm'"):
        ReferenceCache(tmp_path, HERE)


# ------------------------------------------------------------------------------------------------------------ in a run


def test_killed_in_the_pass_and_in_the_training_ends_with_the_same_bytes(
    folder: Path, root: Path, tmp_path: Path
) -> None:
    rows = [row for seed in (1, 2, 8) for row in draw_rows(root, seed=seed)]

    def train(name: str, progress: Any, kept: Path) -> Any:
        trl = {"per_device_train_batch_size": 2, "max_steps": 6, "learning_rate": 1e-2}
        settings = Train(lora=LORA, checkpoint_every=2, reference_folder=str(kept), trl=trl)
        return train_lora(
            method="dpo",
            stage="dpo",
            rows=rows,
            model=folder,
            settings=settings,
            seed=1,
            folder=tmp_path / name,
            progress=progress,
        )

    whole = train("whole", silent, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    head = file.read_bytes()[: len(file.read_bytes()) // 2]  # the first kill: half of the pass, half a line
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / file.name).write_bytes(head)

    def kill(done: int, total: int, note: str = "") -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("killed", kill, tmp_path / "torn")
    steps: list[int] = []
    killed = train("killed", lambda done, total, note="": steps.append(done), tmp_path / "torn")
    assert steps == [5, 6]
    assert adapter_sha256(killed) == adapter_sha256(whole)
    assert killed.log == whole.log


def test_numbers_of_another_model_are_noticed_at_the_first_step(folder: Path, root: Path, tmp_path: Path) -> None:
    """A file that claims to be this model's, and is not: e.g. its weights changed under the same name."""
    rows = draw_rows(root, seed=4)[:4]

    def train(name: str) -> Any:
        return train_lora(
            method="dpo",
            stage="dpo",
            rows=rows,
            model=folder,
            settings=Train(lora=LORA, reference_folder=str(tmp_path / "kept"), trl={"max_steps": 1}),
            seed=1,
            folder=tmp_path / name,
            progress=silent,
        )

    train("first")
    (file,) = (tmp_path / "kept").iterdir()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for entry in lines[1:]:
        for key, text in entry["line"].items():
            minus_one = array("f", [-1.0] * (len(base64.b64decode(text)) // 4))
            entry["line"][key] = base64.b64encode(minus_one.tobytes()).decode()
        entry["key"] = sha256_of(entry["line"])
    file.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    with pytest.raises(
        UserError, match=r"did not start at its reference.*\.jsonl are not this model's: delete that file"
    ):
        train("second")


def test_a_model_that_cannot_share_is_told_of_and_has_its_reference_kept(
    folder: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A LLaVA on Mistral, whose window this packing does not know: TRL's rows, and the same answers for the cache."""
    import shutil

    from transformers import AutoConfig, LlavaForConditionalGeneration, MistralConfig

    shape = AutoConfig.from_pretrained(folder)
    llama = shape.text_config
    shape.text_config = MistralConfig(
        vocab_size=llama.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=llama.pad_token_id,
        bos_token_id=llama.bos_token_id,
        eos_token_id=llama.eos_token_id,
    )
    other = tmp_path / "mistral"
    shutil.copytree(folder, other)
    torch.manual_seed(0)
    LlavaForConditionalGeneration(shape).save_pretrained(other)
    made = {}
    for reference in ("cache", "live"):
        made[reference] = three_steps(other, root, tmp_path / reference, reference=reference)
    why = "language models of type mistral are not among llama"
    assert capsys.readouterr().err.count(f"dpo: one row per completion, as TRL computes it: {why}\n") == 2  # two runs
    assert made["cache"].notes["completions of one prompt"] == f"one row each, as TRL computes them ({why})"
    for name in ("loss", "grad_norm", "rewards/margins"):
        found = [[e[name] for e in made[reference].log] for reference in ("cache", "live")]
        assert found[0] == pytest.approx(found[1], rel=1e-4, abs=2e-6), name


def test_options_of_dpo_mean_nothing_elsewhere(folder: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sft\.reference: means nothing here; it is an option of dpo"):
        train_lora(
            method="sft",
            stage="sft",
            rows=[],
            model=folder,
            settings=Train(reference="live"),
            seed=1,
            folder=tmp_path,
            progress=silent,
        )
