"""Several processes of one training, as `accelerate launch -m align dpo RECIPE` starts them.

    main([...])   in every process; RANK and WORLD_SIZE tell them apart
      first       lead(run): the command as if it were alone; at a training it calls the others together
      others      follow(): wait for a training, take part in it, write no record, print nothing, end as the first ends

So only one process reads the recipe, holds the run's lock and keeps its files; what the others train on is sent to
them. Of the folder of a training they write what TRL's trainer keeps of each process in a checkpoint, nothing else. The
folder and the images must be where all can read them.

Whoever ends early takes the others along: a mistake found by one is told once, by the first; one that is killed is
noticed by the launcher, which stops the rest.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from annotate.errors import MmalignError, UserError

TRAININGS = ("pretrain", "instruct", "dpo", "steerlm", "rejection", "sft")
PART = 4 << 20
"""Bytes of one value in the store, which takes no more than 8 MiB."""
LOOK_SECONDS = 0.2
GRACE_SECONDS = 10.0
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class _Team:
    """What the first process knows of the others."""

    size = 1
    place: Mapping[str, str] = {}
    trainings = 0
    store: Any = None


def size() -> int:
    """Processes that train together; 1 where nobody leads any."""
    return _Team.size


def tell(stage: str, args: Any) -> None:
    """How many train, of trainer arguments `args`; where a launcher started them, which may have started one alone."""
    if args.world_size > 1 or "ACCELERATE_MIXED_PRECISION" in os.environ:
        n, size, steps = args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps
        taken = f" x {steps} batches" * (steps > 1)
        print(f"{stage}: {n} process{'es' * (n > 1)}, {n} x {size} rows{taken} a step", file=sys.stderr, flush=True)


def agree(stage: str, args: Any, rows: Sequence[str]) -> None:
    """Raise `UserError` where processes would train on unlike rows, e.g. since one of them cannot read an image.

    They would go on without a word, each by a plan of its own. Every process must call it, with its rows' ids.
    """
    if args.world_size == 1:
        return
    import torch

    theirs: list[Any] = [None] * args.world_size
    torch.distributed.all_gather_object(theirs, (len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest()))
    if len(set(theirs)) > 1:
        counts = ", ".join(f"process {rank}: {n}" for rank, (n, _) in enumerate(theirs))
        raise UserError(
            f"{stage}: the processes found unlike rows to train on ({counts}); all must be able to read every image"
        )


# ----------------------------------------------------------------------------------------------------------- the first


def lead(verb: str, run: Callable[[], int]) -> int:
    """Run the command; the others end with its exit code."""
    _Team.size, _Team.store = int(os.environ["WORLD_SIZE"]), _store()
    # What is done before the training is done by one process, and its own helpers are none of ours.
    _Team.place = {name: os.environ.pop(name) for name in _NAMES if name in os.environ}
    threading.Thread(target=_stop_with_others, args=(_store_of(_Team.place),), daemon=True).start()
    code = 1
    try:
        if verb not in TRAININGS:
            known = ", ".join(f"align {name}" for name in TRAININGS)
            print(f"align {verb} runs in one process; several are for {known}", file=sys.stderr)
            code = 2
        else:
            code = run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        _end(_Team.store, code)
    return code


@contextmanager
def together(**training: Any) -> Iterator[None]:
    """While the block trains, the others do the same with the same arguments."""
    if _Team.size == 1:
        yield
        return
    import torch

    order = pickle.dumps({"threads": torch.get_num_threads(), **training})
    parts = [order[i : i + PART] for i in range(0, len(order), PART)]
    for i, part in enumerate(parts):
        _Team.store.set(f"training {_Team.trainings}.{i}", part)
    _Team.store.set(f"training {_Team.trainings}", str(len(parts)))
    _Team.trainings += 1
    os.environ.update(_Team.place)
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "peer" not in str(error):
            raise
        raise MmalignError(
            "another process of the training has ended, perhaps killed for want of memory; what is done so far is "
            "kept: give the same command again"
        ) from error
    finally:
        for name in _Team.place:
            os.environ.pop(name, None)


def _stop_with_others(store: Any) -> None:
    """Where another process failed alone, tell why and end: the training would wait for it for ever."""
    while not store.check(["failed"]):
        time.sleep(LOOK_SECONDS)
    deadline = time.monotonic() + GRACE_SECONDS / 2
    while time.monotonic() < deadline:  # it may have failed here too, which is told in the usual way
        if store.check(["end"]):
            return
        time.sleep(LOOK_SECONDS)
    code, text = pickle.loads(store.get("failed"))
    print(text, file=sys.stderr, flush=True)
    _end(store, code)
    os._exit(code)


def _end(store: Any, code: int) -> None:
    """Let the others end with this code, and see them off.

    The launcher tells whoever is left to stop as soon as one is gone: that is us, and we are about to.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(Exception):  # a store that is gone has taken them along
        store.set("end", str(code))
        deadline = time.monotonic() + GRACE_SECONDS
        names = [f"gone {rank}" for rank in range(1, int(_Team.size))]
        while not store.check(names) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS / 10)


# ---------------------------------------------------------------------------------------------------------- the others


def follow() -> int:
    """Take part in what the first process trains, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first one's to hear
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")
    store = _store()
    threading.Thread(target=_end_with_first, args=(_store(),), daemon=True).start()
    try:
        number = 0
        while True:
            _train(_received(store, number))
            number += 1
    except Exception as error:
        ours = isinstance(error, MmalignError)
        text = str(error) if ours else f"process {os.environ['RANK']}: {traceback.format_exc()}"
        code = error.exit_code if isinstance(error, MmalignError) else 1
        with suppress(Exception):
            store.set("failed", pickle.dumps((code, text)))
        time.sleep(6 * GRACE_SECONDS)  # the first one says when
        return code


def _received(store: Any, number: int) -> dict[str, Any]:
    while not store.check([f"training {number}"]):
        time.sleep(LOOK_SECONDS)
    n_parts = int(store.get(f"training {number}"))
    order: dict[str, Any] = pickle.loads(b"".join(store.get(f"training {number}.{i}") for i in range(n_parts)))
    return order


def _train(order: dict[str, Any]) -> None:
    import torch

    from align.train.lora_run import train_lora

    torch.set_num_threads(order.pop("threads"))
    train_lora(**order, progress=lambda done, total, note="": None)


def _end_with_first(store: Any) -> None:
    code = 1
    with suppress(Exception):
        while not store.check(["end"]):
            time.sleep(LOOK_SECONDS)
        code = int(store.get("end"))
        store.set(f"gone {os.environ['RANK']}", "")
    os._exit(code)  # from wherever the main thread is: it may wait for a process that is gone


# ----------------------------------------------------------------------------------------------------------- the store


def _store() -> Any:
    return _store_of(os.environ)


def _store_of(place: Mapping[str, str]) -> Any:
    """The launcher's key-value store, or one in the first process where the launcher has none; a client of its own."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError):
        raise UserError("WORLD_SIZE is set but MASTER_ADDR and MASTER_PORT are not; use `accelerate launch`") from None
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        host,
        port,
        is_master=not hosted and place["RANK"] == "0",
        wait_for_workers=False,
        multi_tenant=True,
        timeout=timedelta(seconds=300),
    )
    return PrefixStore(f"mmalign/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
