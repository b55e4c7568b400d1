"""Training the connector alone beside plain HF Trainers: seconds a step, the same losses, no tower backwards.

    python bench/bench_connector.py              3 rounds of 5 steps each, 2 images a step
    python bench/bench_connector.py --rounds 1

`train_lora` with `parts: {language: frozen, projector: full}`, the whole of it: rows, images and collator from files.
Beside it transformers' Trainer on the same rows, batches and options, fed by the same collator: with only the
connector trainable, and with all parameters in the graph and only the connector in the optimizer. The model is a LLaVA
with random weights and shares of work like LLaVA-1.5-7B's (tower 5%, LM head 2%); questions and captions are about as
long as those of LLaVA-Pretrain. CPU seconds of the process on one thread from step to step, the first step of each
training left out, the trainings in turn; the ratios are those of the medians of all steps.

In the same run: losses of all steps and the connector afterwards are equal; hooks on every module count the backward
passes of the tower, none of ours, some of the graph that holds everything.

`bound` is the ratio of floating-point operations (torch's FlopCounterMode) of the trainings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # the script beside this one that is called annotate is not the package

import numpy as np
import torch
from PIL import Image as PILImage
from torch.nn.modules.module import register_module_full_backward_hook
from torch.utils.flop_counter import FlopCounterMode
from train_rig import world
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from align.models.load import load_vlm
from align.models.quiet import quiet
from align.models.tiny import build_tokenizer
from align.settings import Parts, Train
from align.train.lora_rows import TrainRow, as_dataset, collate_examples
from align.train.lora_run import train_lora
from align.train.parts import choose
from annotate.records import Image, Prompt, Turn

OURS, PLAIN, WHOLE = "ours", "HF Trainer, connector trainable", "HF Trainer, all parameters in the graph"
PARTS = Parts(language="frozen", projector="full")
STEPS, ROWS = 5, 2
TRL = {
    "per_device_train_batch_size": ROWS,
    "max_steps": STEPS,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,  # or the graph that holds everything would have another norm
}
WORDS = "a small red boat lies on the calm water near an old wooden house with two windows and some green trees".split()


def build_model() -> Any:
    """Wider than the rig's, so that attention is no larger a share of the language model than it is at 4096."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
        projection_dim=160,
    )
    text = LlamaConfig(
        vocab_size=world.VOCABULARY,
        hidden_size=1024,
        intermediate_size=2752,
        num_hidden_layers=2,
        num_attention_heads=8,
        max_position_embeddings=4096,
        pad_token_id=world.PAD,
    )
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text, image_token_id=world.IMAGE, image_seq_length=world.IMAGE_TOKENS
        )
    )


@dataclass
class Run:
    """What a training told, step by step."""

    losses: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    backwards: int = 0
    flops: int = 0
    connector: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def seconds(self) -> list[float]:
        """CPU seconds of every step but the first."""
        return [after - before for before, after in pairwise(self.clock)]


class Told(TrainerCallback):
    """Loss and CPU clock of each step, as `train_lora` tells them."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.run.clock.append(time.process_time())
            self.run.losses.append(logs["loss"])


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, folder / "model"
        model = build_model()
        tokenizer = build_tokenizer([" ".join(WORDS)] * 4, 300)
        tokenizer.model_max_length = 4096
        images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
        processor = LlavaProcessor(
            image_processor=images,
            tokenizer=tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
        model.save_pretrained(self.model)
        processor.save_pretrained(self.model)
        self.rows = [self._row(n) for n in range(STEPS * ROWS)]

    def _row(self, n: int) -> TrainRow:
        draw = np.random.default_rng(n)
        path = self.folder / f"{n}.png"
        PILImage.fromarray(draw.integers(0, 256, (336, 336, 3), dtype=np.uint8)).save(path)
        image = Image(path=path.name, sha256=f"{n:064d}")
        turn = Turn(role="user", text="<image>\na small house on the water", images=(image,))
        caption = " ".join(draw.choice(WORDS, size=int(draw.integers(20, 45))))
        return TrainRow(id=str(n), prompt=Prompt.of((turn,)), images=(path,), completions=(caption,))

    def train(self, name: str) -> Run:
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            return self._ours(Path(out)) if name == OURS else self._theirs(Path(out), whole=name == WHOLE)

    def _ours(self, out: Path) -> Run:
        run = Run()
        made = train_lora(
            method="sft",
            stage="sft",
            rows=self.rows,
            model=self.model,
            settings=Train(parts=PARTS, trl=TRL),
            seed=0,
            folder=out,
            progress=lambda done, total, note="": run.clock.append(time.process_time()),
        )
        run.losses = [entry["loss"] for entry in made.log]
        run.connector = connector(load_vlm(made.adapter).model)
        return run

    def _theirs(self, out: Path, *, whole: bool) -> Run:
        run = Run()
        loaded = load_vlm(self.model)
        model = loaded.model
        choose(model, PARTS)
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if whole:
            model.requires_grad_(True)
        args = TrainingArguments(
            output_dir=str(out),
            seed=0,
            use_cpu=True,
            bf16=False,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            **TRL,
        )
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=as_dataset(self.rows),
            data_collator=collate_examples(self.rows, loaded.encoder),
            callbacks=[Told(run)],
            optimizers=(torch.optim.AdamW(learning, lr=TRL["learning_rate"], weight_decay=0.0), None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        run.connector = connector(model)
        return run

    def watched(self, name: str) -> Run:
        """A training of which everything is counted: passes backwards through the tower's modules, and operations.

        Ours also rehearses a batch, which is taken away.
        """
        backwards = 0

        def note(module: Any, *gradients: Any) -> None:
            nonlocal backwards
            backwards += type(module).__name__.startswith("CLIP")

        hook = register_module_full_backward_hook(note)
        try:
            with FlopCounterMode(display=False) as counter:
                run = self.train(name)
        finally:
            hook.remove()
        run.backwards, run.flops = backwards, counter.get_total_flops()
        run.flops = run.flops * STEPS // (STEPS + 1) if name == OURS else run.flops
        return run


def connector(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if "multi_modal_projector" in n}


def check(ours: Run, theirs: Run) -> float:
    """Largest relative difference of the losses of all steps; the connector that comes out is the same too."""
    in_loss = max(abs(a / b - 1) for a, b in zip(ours.losses, theirs.losses, strict=True))
    assert len(ours.losses) == STEPS
    assert in_loss <= 1e-5, f"loss differs by {in_loss}"
    for name, tensor in theirs.connector.items():
        differs = float((ours.connector[name] - tensor).abs().max() / tensor.abs().max())
        assert differs <= 1e-2, f"{name} differs by {differs}"
    return in_loss


def measure(bench: Bench, names: Sequence[str], rounds: int) -> list[dict[str, Run]]:
    found = []
    for number in range(rounds):
        order = names if number % 2 == 0 else names[::-1]
        found.append({name: bench.train(name) for name in order})
        print("   ".join(f"{name} {statistics.median(found[-1][name].seconds):.2f} s" for name in names), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = (OURS, PLAIN, WHOLE)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        watched = {name: bench.watched(name) for name in names}
        assert watched[OURS].backwards == watched[PLAIN].backwards == 0 < watched[WHOLE].backwards
        rounds = measure(bench, names, options.rounds)
    in_loss = max(check(run[OURS], run[peer]) for run in [watched, *rounds] for peer in (PLAIN, WHOLE))
    seconds = {name: statistics.median(s for run in rounds for s in run[name].seconds) for name in names}
    against = {
        peer: {
            "ratio": round(seconds[peer] / seconds[OURS], 2),
            "bound": round(watched[peer].flops / watched[OURS].flops, 2),
        }
        for peer in (PLAIN, WHOLE)
    }
    for peer, row in against.items():
        print(f"against {peer:40} {row['ratio']:.2f}x   bound {row['bound']:.2f}")
    print(f"backward passes of the tower's modules: { ({name: run.backwards for name, run in watched.items()}) }")
    print(
        json.dumps(
            {
                "bench": "connector alone, LLaVA-1.5-7B FLOP shares",
                "peer": PLAIN,
                **against[PLAIN],
                "max_rel_diff": in_loss,
                "ours": {"cpu_seconds": round(seconds[OURS], 2)},
                "theirs": {"cpu_seconds": round(seconds[PLAIN], 2)},
                "cases": [
                    {
                        "case": "a step",
                        "against": against,
                        "rel_diff_loss": in_loss,
                        "cpu_seconds": {name: round(s, 2) for name, s in seconds.items()},
                        "tower_backwards": {name: run.backwards for name, run in watched.items()},
                    }
                ],
                "machine": world.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
