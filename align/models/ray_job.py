"""A Ray Data job, in a process of its own: Ray ends a process that it loses touch with.

    job = JobProcess(fleet, JudgeWorker, settings, log)
    for worker, replies in answers(job.connection(), batches): ...

What runs is `python -m align.models.ray_job FD`, with FD a connection to us. In: the `Fleet`, the class of worker and
what it is made from, then, over and over, the number of batches and each batch. Out: `("ready", "")`, and per batch
`("replies", worker, …)` as it is done, `("over",)` at the end of a job; or `("fault", text)` where there can be none.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from align.models.judge import JudgeSettings
from annotate.errors import UserError
from annotate.protocol import Outcome, Reply, Request

MOST_STARTS = 2
"""After so many workers have died of a batch, it is given up; the annotator asks its requests again, one by one."""

Batch = list[tuple[int, Request]]
Replies = list[tuple[int, Reply]]
WorkerClass = type[Any]
"""Made from its settings and `Starts.begin`; called with rows of pickled batches, see `JudgeWorker`."""

_PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """How many workers, and what each of them gets."""

    workers: int
    gpus_per_worker: float | None
    """None: one where the cluster has any."""
    cpus_per_worker: float
    address: str

    def gpus(self, resources: Mapping[str, float]) -> float:
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return 1.0 if resources.get("GPU") else 0.0


def main(connection: Connection) -> None:
    """Until the annotator closes the connection or sends SIGTERM; Ray is shut down on leaving."""
    _leave_on_sigterm()
    try:
        _serve(connection)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Ray's farewell is not to be broken off


def _serve(connection: Connection) -> None:
    fleet, worker, settings = connection.recv()
    try:
        start(fleet)
    except UserError as error:
        return connection.send(("fault", str(error)))
    finally:
        _leave_on_sigterm()  # Ray has put its own in its place, which leaves its other processes behind
    connection.send(("ready", ""))
    while True:
        try:
            n = connection.recv()
            batches = [connection.recv() for _ in range(n)]
        except EOFError:
            return None
        run(fleet, worker, settings, batches, connection)
        connection.send(("over",))


def _leave_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


STARTS = 3
"""Times Ray is started before that counts as a failure; it gives its processes 30 seconds, each time."""


def start(fleet: Fleet) -> None:
    """Start Ray, or join the cluster. Nothing is reported to anybody, no dashboard is opened."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = -1  # a batch that was lost with its worker is no reason to lose the others
        for left in reversed(range(STARTS)):
            try:
                ray.init(
                    address=fleet.address or "local",
                    include_dashboard=None if fleet.address else False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
                break
            except Exception as error:  # Ray raises this very class when a busy machine was too slow for it
                if not left or isinstance(error, ConnectionError | ValueError | RuntimeError):
                    raise UserError(f"Ray cannot be started ({str(error).strip().splitlines()[0]})") from error
                ray.shutdown()
    if not fleet.address:  # a cluster may grow
        check_room(fleet, ray.cluster_resources())


def check_room(fleet: Fleet, resources: Mapping[str, float]) -> None:
    """Raise `UserError` where Ray would wait without end for a place to put the workers."""
    for what, each in (("CPU", fleet.cpus_per_worker), ("GPU", fleet.gpus(resources))):
        needed, have = each * fleet.workers, resources.get(what, 0.0)
        if needed > have:
            raise UserError(
                f"{fleet.workers} workers with {each:g} {what}s each need {needed:g}, and this machine has {have:g}; "
                "ask for fewer workers"
            )


def run(fleet: Fleet, worker: WorkerClass, settings: Any, batches: Sequence[Any], connection: Connection) -> None:
    """One job; a row of Ray's is a batch. A batch may be lost: then nothing is sent of it."""
    import ray.data
    import ray.exceptions

    starts = ray.remote(num_cpus=0)(Starts).remote()
    answered = ray.data.from_items(
        [{"batch": pickle.dumps(batch)} for batch in batches], override_num_blocks=len(batches)
    ).map_batches(
        worker,
        fn_constructor_args=(settings, partial(_begin, starts)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(fleet.workers, len(batches))),
        num_cpus=fleet.cpus_per_worker,
        num_gpus=fleet.gpus(ray.cluster_resources()),
    )
    try:
        for row in answered.iter_rows():
            connection.send(("replies", row["worker"], pickle.loads(row["replies"])))
    except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as error:
        print(f"the job broke off: {error}", file=sys.stderr)


class Starts:
    """How often each batch was begun, over all workers: Ray gives the batches of a worker that died to the next."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def begin(self, batch: str) -> int:
        self._counts[batch] += 1
        return self._counts[batch]


def _begin(starts: Any, batch: str) -> int:
    import ray

    begun: int = ray.get(starts.begin.remote(batch))
    return begun


class JudgeWorker:
    """What runs in each of Ray's actors. A model that cannot be loaded is said of each request, not raised."""

    def __init__(self, settings: JudgeSettings, begin: Callable[[str], int]) -> None:
        """`begin` is `Starts.begin`, of the actor that counts for the whole job."""
        from align.models.judge import Judge

        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.begin = begin
        try:
            self.judge, self.fault = Judge(settings), ""
        except UserError as error:
            self.fault = f"worker {self.name}: {error}"

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[Any]]:
        answered = [self._answer(pickle.loads(data)) for data in rows["batch"]]
        return {"replies": [pickle.dumps(a) for a in answered], "worker": [self.name] * len(answered)}

    def _answer(self, batch: Batch) -> Replies:
        if self.begin(" ".join(request.sha256 for _, request in batch)) > MOST_STARTS:
            given_up = Reply(outcome=Outcome.TRANSIENT, detail="its worker died, more than once")
            return [(i, given_up) for i, _ in batch]
        replies: dict[int, Reply] = {}
        if not self.fault:
            try:
                self.judge.answer([request for _, request in batch], replies.__setitem__)
            except Exception as error:  # a fault of the model's code or ours: the run is to end and say so
                self.fault = f"worker {self.name}: {type(error).__name__}: {error}"
        return [
            (i, replies.get(k) or Reply(outcome=Outcome.RUN_FATAL, detail=self.fault)) for k, (i, _) in enumerate(batch)
        ]


class JobProcess:
    """Our side of the job: its process is started when it is first needed, and again where it has ended."""

    def __init__(self, fleet: Fleet, worker: WorkerClass, settings: Any, log: Path) -> None:
        """What Ray has to say goes to `log`."""
        self._first = (fleet, worker, settings)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """To the process, which is started where it does not run. Raises `UserError`."""
        if self.process is not None and self._connection is not None and self.process.poll() is None:
            return self._connection
        self.end()
        self._connection, theirs = Pipe()
        paths = [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "align.models.ray_job", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                start_new_session=True,  # Ctrl-C is for us; we end it
            )
        theirs.close()
        try:
            self._connection.send(self._first)
            kind, text = self._connection.recv()
        except (EOFError, OSError):
            kind, text = "fault", f"Ray ended before it had started; see {self.log}"
        if kind == "fault":
            raise UserError(text)
        return self._connection

    def terminate(self) -> None:
        """Tell it to end, once: the second time would break off Ray's own farewell."""
        if self.process is not None:
            self.process.terminate()

    def end(self) -> None:
        """Let go of the process, which has ended or been told to, if there is one."""
        if self._connection is not None:
            self._connection.close()
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.process.kill()
            self.process.wait()
        self.process = self._connection = None


def answers(connection: Connection, batches: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Send the batches of one job, get (worker, replies) as they are done; ends early where the process ends."""
    try:
        connection.send(len(batches))
        for batch in batches:
            connection.send(batch)
        while (message := connection.recv())[0] == "replies":
            yield message[1], message[2]
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    # Classes are to be known to the workers by this module's name, not as `__main__`.
    from align.models.ray_job import main as serve

    serve(Connection(int(sys.argv[1])))
