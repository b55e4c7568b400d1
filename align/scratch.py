"""A folder to work in that is gone in the end, also when a run was killed: then the next one clears it.

with scratch(Path("out"), ".rows-") as folder: ...         out/.rows-k3j2h1/, in it a file `lock` that is held
"""

from __future__ import annotations

import fcntl
import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from align.workers import unstoppable


@contextmanager
def scratch(near: Path, prefix: str, *others: Path) -> Iterator[Path]:
    """A new folder in `near`, its name beginning with `prefix`.

    What a killed run left there, or in one of the `others`, is known by its free lock, and goes too.
    """
    for left in (left for place in (near, *others) for left in place.glob(f"{glob.escape(prefix)}*")):
        with suppress(OSError), (left / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=near))
    try:
        with (folder / "lock").open("wb") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
    finally:
        with unstoppable():
            shutil.rmtree(folder, ignore_errors=True)
