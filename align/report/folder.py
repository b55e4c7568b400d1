"""The folder that a report is written to: tried before the work is done, and filled when it is.

check_folder(Path("q.txt"))                          UserError: --out: q.txt cannot be a folder (File exists) …
write_files(Path("out"), {"doctor.html": "<!d…"})    each file whole or not at all
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from align.scratch import scratch
from annotate.errors import UserError
from annotate.jsonl import write_text


def check_folder(folder: Path) -> None:
    """Raise `UserError` where files cannot be written to a folder, whether it is there yet or not; leaves no trace."""
    new: list[Path] = []
    try:
        new = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise _unwritable(folder, error) from None
    finally:
        for place in new:  # the innermost first
            with suppress(OSError, ValueError):
                place.rmdir()


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by name. Raises `UserError` where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch(folder, ".report-") as made:
            for name, text in files.items():
                write_text(made / name, text)
            for name in files:
                (made / name).replace(folder / name)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError | ValueError) -> UserError:
    why = getattr(error, "strerror", None) or error
    return UserError(f"--out: reports cannot be written to {folder} ({why}); name a folder, there already or not")
