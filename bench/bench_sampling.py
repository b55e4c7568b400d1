"""Four completions for each prompt, beside `generate(num_return_sequences=4)` of transformers.

    python bench/bench_sampling.py            16 prompts x 4 x 64 tokens, 3 rounds
    python bench/bench_sampling.py --quick    2 prompts x 4 x 8 tokens, for the tests

A LLaVA with random weights whose shares of work are those of LLaVA-1.5-7B, on one thread of a CPU: CPU seconds of the
process, ours and theirs in turn, median of the ratios. In the same run: greedy tokens are those of `generate`, for each
of the four; draws are those of `generate` with the same generators; and the memory of keys and values at its largest.

`bound` is the ratio of floating-point operations (torch's FlopCounterMode). A CPU may surpass it: `generate` also
copies all keys and values at every step.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from align.models.draws import SeededDraw
from align.models.quiet import quiet
from align.sample import tree

PAD, IMAGE, VOCABULARY = 0, 3, 512
IMAGE_TOKENS = 576
NEVER = VOCABULARY
"""The end marker: no token, so that every completion is as long as it may be."""


@dataclass(frozen=True, kw_only=True)
class Work:
    prompts: int
    n: int
    new: int
    rounds: int


def build_model() -> Any:
    """LLaVA-1.5-7B scaled down: of the work of a forward pass, tower 4-6% and LM head 2%."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=4,
        num_attention_heads=8,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        initializer_range=0.08,  # peaked enough that greedy tokens are no matter of rounding
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=IMAGE_TOKENS)
    return LlavaForConditionalGeneration(config).eval()


def build_batch(n_prompts: int) -> dict[str, torch.Tensor]:
    """Ragged prompts with an image each, padded on the left."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(53, 68, (n_prompts,), generator=draw).tolist()
    width = IMAGE_TOKENS + max(lengths)
    ids = torch.full((n_prompts, width), PAD)
    for b, length in enumerate(lengths):
        text = torch.randint(4, NEVER, (length,), generator=draw)
        ids[b, width - IMAGE_TOKENS - length :] = torch.cat([text[:5], torch.full((IMAGE_TOKENS,), IMAGE), text[5:]])
    pixels = torch.randn(n_prompts, 3, 336, 336, generator=draw)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "pixel_values": pixels}


@torch.inference_mode()
def theirs(model: Any, batch: dict[str, torch.Tensor], work: Work, **how: Any) -> torch.Tensor:
    """New tokens by `generate`, prompts x n rows."""
    whole = model.generate(
        **batch,
        max_new_tokens=work.new,
        pad_token_id=PAD,
        eos_token_id=NEVER,
        **how,
    )
    return whole[:, batch["input_ids"].shape[1] :]


def ours(model: Any, batch: dict[str, torch.Tensor], work: Work, temperature: float) -> torch.Tensor:
    """The same by tree decoding."""
    writing = tree.Writing(limit=work.new, ends=frozenset(), pad_id=PAD, temperature=temperature)
    written = tree.decode(model, batch, seeds(work), writing, "tree")
    return torch.tensor([completion.ids for row in written for completion in row])


def seeds(work: Work) -> list[list[int]]:
    return [[1000 * b + k for k in range(work.n)] for b in range(work.prompts)]


@dataclass(frozen=True)
class Account:
    kv: int
    """Bytes of keys and values at their largest."""
    flops: int


def check(model: Any, batch: dict[str, torch.Tensor], work: Work) -> tuple[Account, Account]:
    """The same tokens: greedily, and drawn by the same generators. Returns what each side takes: ours, theirs."""
    greedy = theirs(model, batch, work, do_sample=False).repeat_interleave(work.n, dim=0)
    assert torch.equal(ours(model, batch, work, 0.0), greedy), "greedy tokens differ"
    assert len({tuple(row) for row in greedy.tolist()}) == work.prompts
    draw = SeededDraw([seed for row in seeds(work) for seed in row], 0.7, 1.0)
    largest = [0, 0]

    def weigh(side: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            cache = kwargs["past_key_values"]
            held = getattr(cache, "n_bytes", None) or sum(
                states.numel() * states.element_size()
                for layer in cache.layers
                for states in (layer.keys, layer.values)
            )
            largest[side] = max(largest[side], held)

        return model.model.language_model.register_forward_hook(hook, with_kwargs=True)

    watch = weigh(0)
    with FlopCounterMode(display=False) as our_flops:
        mine = ours(model, batch, work, 0.7)
    watch.remove()
    watch = weigh(1)
    how = {"do_sample": True, "top_k": 0, "num_return_sequences": work.n, "logits_processor": [draw]}
    with FlopCounterMode(display=False) as their_flops:
        drawn = theirs(model, batch, work, **how)
    watch.remove()
    assert torch.equal(mine, drawn), "draws differ"
    assert len({tuple(row) for row in drawn.tolist()}) == work.prompts * work.n
    return Account(largest[0], our_flops.get_total_flops()), Account(largest[1], their_flops.get_total_flops())


def cpu_seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 prompts, 8 tokens, one round")
    quick = parser.parse_args().quick
    work = Work(prompts=2, n=4, new=8, rounds=1) if quick else Work(prompts=16, n=4, new=64, rounds=3)
    torch.set_num_threads(1)
    with quiet():
        model, batch = build_model(), build_batch(work.prompts)
        mine_takes, other_takes = check(model, batch, work)
        times = []
        for _ in range(work.rounds):
            mine = cpu_seconds(lambda: ours(model, batch, work, 0.7))
            other = cpu_seconds(
                lambda: theirs(model, batch, work, do_sample=True, top_k=0, num_return_sequences=work.n)
            )
            times.append((mine, other))
            print(f"ours {mine:6.2f} s   generate {other:6.2f} s   ratio {other / mine:.2f}")
    tokens = work.prompts * work.n * work.new
    result = {
        "bench": f"sampling {work.prompts} prompts x {work.n} x {work.new}",
        "peer": "transformers generate(num_return_sequences=4)",
        "ratio": round(statistics.median(other / mine for mine, other in times), 2),
        "bound": round(other_takes.flops / mine_takes.flops, 2),
        "max_rel_diff": 0.0,  # the tokens are the same: `check`
        "ours": {
            "cpu_seconds": round(statistics.median(m for m, _ in times), 2),
            "tokens_per_s": round(tokens / statistics.median(m for m, _ in times)),
            "kv_MB": round(mine_takes.kv / 2**20, 1),
        },
        "theirs": {
            "cpu_seconds": round(statistics.median(o for _, o in times), 2),
            "tokens_per_s": round(tokens / statistics.median(o for _, o in times)),
            "kv_MB": round(other_takes.kv / 2**20, 1),
        },
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
