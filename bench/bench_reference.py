"""Log-probabilities of the reference beside TRL's `compute_ref_log_probs`: pairs, and groups of four completions.

    python bench/bench_reference.py            4 pairs; 2 prompts x 4; 3 rounds
    python bench/bench_reference.py --quick    1 pair, 1 prompt x 3; one round, for the tests

No gradients. The model, the batches and the method are those of bench_dpo.py. For a group TRL is asked twice: for each
completion once, in rows of its own, and for the pairs of the best against the rest, as its trainer would. In the same
run: the sums are TRL's. `bound` is the ratio of floating-point operations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

sys.path.append(sys.path.pop(0))  # the script beside this one that is called annotate is not the package

import torch
from torch.utils.flop_counter import FlopCounterMode
from train_rig import world

from align.models.quiet import quiet
from align.train.lora_rows import Spoken
from align.train.trainers import score


@dataclass(frozen=True)
class Case:
    name: str
    prompts: int
    completions: int
    exploded: bool
    """TRL computes the rows of the pairs; else each completion once."""


FULL = (
    Case("pairs", 4, 2, exploded=True),
    Case("groups of 4, each completion once", 2, 4, exploded=False),
    Case("groups of 4, best against the rest", 2, 4, exploded=True),
)
QUICK = (Case("pairs", 1, 2, exploded=True), Case("groups of 3, each completion once", 1, 3, exploded=False))


def measure(case: Case, ours: Any, trl: Any, rounds: int) -> dict[str, Any]:
    pairs = world.draw_pairs(case.prompts, case.completions, "best")
    once = list({id(said): said for said in pairs}.values())
    theirs = world.make_batch(pairs if case.exploded else once, sharing=False)
    packed = world.make_batch(once, sharing=True)

    def our_sums() -> dict[int, float]:
        sums = score(ours, world.fresh(packed)).sum(dim=1).tolist()
        return {id(said): value for said, value in zip(once, sums, strict=True)}

    def trl_sums(rows: list[Spoken]) -> dict[int, float]:
        halves = trl.compute_ref_log_probs(trl.model, world.fresh(theirs))
        return {id(said): value for said, value in zip(rows, torch.cat(halves).tolist(), strict=True)}

    asked = pairs if case.exploded else once
    expected, found = trl_sums(asked), our_sums()
    differs = max(abs(found[key] / value - 1) for key, value in expected.items())
    assert differs <= 1e-5, f"log-probabilities differ by {differs}"
    bound = flops(lambda: trl_sums(asked)) / flops(our_sums)
    times = []
    for _ in range(rounds):
        times.append((world.cpu_seconds(our_sums), world.cpu_seconds(lambda: trl_sums(asked))))
        print(f"  {case.name}: ours {times[-1][0]:.2f} s   trl {times[-1][1]:.2f} s", flush=True)
    return {
        "case": case.name,
        "ratio": round(statistics.median(other / mine for mine, other in times), 2),
        "bound": round(bound, 2),
        "max_rel_diff": differs,
        "ours": {"cpu_seconds": round(statistics.median(m for m, _ in times), 2)},
        "theirs": {"cpu_seconds": round(statistics.median(o for _, o in times), 2)},
    }


def flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one pair and one group, one round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with quiet():
        world.as_on_a_gpu()
        ours, trl = (world.trainer(ours=mine, checkpointing=False) for mine in (True, False))
        cases = QUICK if options.quick else FULL
        measured = [measure(case, ours, trl, 1 if options.quick else options.rounds) for case in cases]
    for row in measured:
        print(
            f"{row['case']:40} {row['ratio']:.2f}x   bound {row['bound']:.2f}, {row['ratio'] / row['bound']:.0%} of it"
        )
    head = {"bench": "reference log-probabilities", "peer": "TRL 1.16 compute_ref_log_probs"}
    print(json.dumps(head | measured[0] | {"cases": measured, "machine": world.machine()}))


if __name__ == "__main__":
    main()
