"""A step of DPO beside TRL 1.16: pairs, groups of four best against the rest, groups of four all pairs.

    python bench/bench_dpo.py            4 pairs; groups of 4: 2 against the rest, 1 with all pairs; 2 rounds
    python bench/bench_dpo.py --quick    1 pair, 1 prompt x 3 completions; one round, for the tests

Forward and backward of `compute_loss` with adapters, on a LLaVA with random weights whose shares of work are those of
LLaVA-1.5-7B: CPU seconds of the process on one thread, all variants in turn, medians of the rounds' ratios. TRL is
given the exploded pairs, in its own layout; its head scores only the completions, as on a GPU. Our reference is cached;
what computing it costs is measured too, and counted once in 1 and in 3 epochs. In the same run: equality with TRL's
loss and gradients.

`bound` is the ratio of floating-point operations (torch's FlopCounterMode), `saved` what autograd keeps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from typing import Any

sys.path.append(sys.path.pop(0))  # the script beside this one that is called annotate is not the package

import torch
from torch.utils.flop_counter import FlopCounterMode
from train_rig import world

from align.models.quiet import quiet
from align.train.trainers import score

VARIANTS = {
    "trl": {"ours": False, "checkpointing": True},
    "trl, no checkpointing": {"ours": False, "checkpointing": False},
    "ours": {"ours": True, "checkpointing": False, "reference": True},
    "ours, checkpointing": {"ours": True, "checkpointing": True, "reference": True},
}


@dataclass(frozen=True)
class Case:
    name: str
    prompts: int
    completions: int
    pairs: str


FULL = (Case("pairs", 4, 2, "one"), Case("4, best and rest", 2, 4, "best"), Case("4, all pairs", 1, 4, "all"))
QUICK = (Case("pairs", 1, 2, "one"), Case("3, all pairs", 1, 3, "all"))


class Bench:
    """The variants on one case: all of them hold the same weights."""

    def __init__(self, case: Case, trainers: dict[str, Any]) -> None:
        self.trainers = trainers
        sequences = world.draw_pairs(case.prompts, case.completions, case.pairs)
        whole, packed = (world.make_batch(sequences, sharing=sharing) for sharing in (False, True))
        chosen, rejected = trainers["trl"].compute_ref_log_probs(trainers["trl"].model, whole)
        known = {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        self.batches = {name: packed | known if name.startswith("ours") else whole for name in trainers}
        self.packed = packed

    def step(self, name: str) -> float:
        trainer = self.trainers[name]
        trainer.model.zero_grad(set_to_none=True)
        loss = trainer.compute_loss(trainer.model, world.fresh(self.batches[name]))
        loss.backward()
        return float(loss.item())

    def reference(self) -> None:
        score(self.trainers["ours"], world.fresh(self.packed))

    def account(self, name: str) -> Account:
        """One step with everything noted."""
        model = self.trainers[name].model
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        held: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with (
            FlopCounterMode(display=False) as counter,
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        ):
            loss = self.step(name)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return Account(loss, gradient, counter.get_total_flops(), sum(held.values()) / 1e6)


@dataclass(frozen=True)
class Account:
    loss: float
    gradient: torch.Tensor
    flops: int
    saved: float
    """MB that autograd keeps for the backward pass, every storage once, parameters not."""


def check(accounts: dict[str, Account]) -> tuple[float, float]:
    """Largest relative difference to TRL of the losses and of the adapters' gradients."""
    peer = accounts["trl, no checkpointing"]
    own = [account for name, account in accounts.items() if name.startswith("ours")]
    in_loss = max(abs(a.loss / peer.loss - 1) for a in own)
    in_gradient = max(float((a.gradient - peer.gradient).abs().max() / peer.gradient.abs().max()) for a in own)
    assert in_loss <= 1e-5, f"loss differs by {in_loss}"
    assert in_gradient <= 1e-5, f"gradients differ by {in_gradient}"
    return in_loss, in_gradient


def measure(case: Case, trainers: dict[str, Any], rounds: int) -> dict[str, Any]:
    bench = Bench(case, trainers)
    accounts = {name: bench.account(name) for name in trainers}
    in_loss, in_gradient = check(accounts)
    saved = {name: account.saved for name, account in accounts.items()}
    times: list[dict[str, float]] = []
    for _ in range(rounds):
        seconds = {name: world.cpu_seconds(lambda name=name: bench.step(name)) for name in trainers}
        seconds["reference"] = world.cpu_seconds(bench.reference)
        times.append(seconds)
        print(f"  {case.name}: " + "   ".join(f"{name} {s:.2f} s" for name, s in seconds.items()), flush=True)

    def ratio(peer: str, own: str = "ours", epochs: int = 0) -> dict[str, float]:
        bound = accounts[peer].flops / accounts[own].flops
        found = statistics.median(t[peer] / (t[own] + (t["reference"] / epochs if epochs else 0)) for t in times)
        return {"ratio": round(found, 2), "bound": round(bound, 2)}

    rows = {
        "trl": ratio("trl"),
        "trl, no checkpointing": ratio("trl, no checkpointing"),
        "both checkpointing": ratio("trl", "ours, checkpointing"),
        **{
            f"{peer}, reference counted, {epochs} epoch(s)": {"ratio": ratio(peer, epochs=epochs)["ratio"]}
            for peer in ("trl", "trl, no checkpointing")
            for epochs in (1, 3)
        },
    }
    return {
        "case": case.name,
        "against": rows,
        "saved_MB": {name: round(mb, 1) for name, mb in saved.items()},
        "saved_share": round(saved["ours"] / saved["trl, no checkpointing"], 2),
        "rel_diff_loss": in_loss,
        "rel_diff_gradient": in_gradient,
        "cpu_seconds": {name: round(statistics.median(t[name] for t in times), 2) for name in times[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one pair and one group, one round")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with quiet():
        world.as_on_a_gpu()
        trainers = {name: world.trainer(**how) for name, how in VARIANTS.items()}
        cases = QUICK if options.quick else FULL
        measured = [measure(case, trainers, 1 if options.quick else options.rounds) for case in cases]
    for found in measured:
        print(f"{found['case']}: saved {found['saved_share']}x")
        for peer, row in found["against"].items():
            share = f"   bound {row['bound']:5.2f}, {row['ratio'] / row['bound']:.0%} of it" if "bound" in row else ""
            print(f"  against {peer:55} {row['ratio']:5.2f}x{share}")
    first = measured[0]
    print(
        json.dumps(
            {
                "bench": "DPO step, LLaVA-1.5-7B FLOP shares",
                "peer": "TRL 1.16 DPOTrainer, defaults",
                **first["against"]["trl"],
                "max_rel_diff": max(max(m["rel_diff_loss"], m["rel_diff_gradient"]) for m in measured),
                "ours": {"cpu_seconds": first["cpu_seconds"]["ours"], "saved_MB": first["saved_MB"]["ours"]},
                "theirs": {"cpu_seconds": first["cpu_seconds"]["trl"], "saved_MB": first["saved_MB"]["trl"]},
                "cases": measured,
                "machine": world.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
