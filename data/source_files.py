"""Rows out of the files people have of a source, or out of the hub: one after the other, never a file in memory whole.

Every reader yields (place, row): `("train.csv:12", {...})`. A row that cannot be parsed by itself is yielded as a
`RecordError`, so that all of them can be told; a file that cannot be read at all is a `UserError`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sources import Hub, Part, Source

from annotate.errors import RecordError, UserError

Found = tuple[Part, Path]
_DECODE = msgspec.json.Decoder()
FORMATS_EXTRA = "pip install 'mmalign[formats]'"


def find_files(source: Source, subset: str, given: Path) -> tuple[list[Found], list[str]]:
    """The files of a subset below a folder (or the one file that was named), and the optional ones that are absent."""
    parts = source.subsets[subset]
    if given.is_file():
        return [(_part_of(parts, given), given)], []
    if not given.is_dir():
        raise UserError(f"{given}: no such folder; --folder names where the files of {source.title} lie")
    found: list[Found] = []
    absent: list[str] = []
    missing: list[str] = []
    for part in parts:
        matches = next((m for m in (sorted(given.glob(pattern)) for pattern in _zipped_too(part.files)) if m), [])
        found += [(part, path) for path in matches]
        if not matches:
            (missing if part.required else absent).append(" or ".join(part.files))
    if missing or not found:
        wanted = "".join(f"\n  {name}" for name in missing or absent)
        others = [name for name in source.subsets if name != subset]
        raise UserError(
            f"{given}: subset {subset!r} of {source.title} needs, in this folder:{wanted}\n"
            f"get it from {source.url}" + (f", or choose another: --subset {' | '.join(others)}" if others else "")
        )
    return found, absent


def _part_of(parts: tuple[Part, ...], file: Path) -> Part:
    """The part whose pattern fits the file's name; the first part if it was renamed."""
    return next((p for p in parts if any(file.match(Path(name).name) for name in _zipped_too(p.files))), parts[0])


def _zipped_too(patterns: Iterable[str]) -> list[str]:
    """Each pattern, and behind it that of the same file as `.gz`."""
    given = list(patterns)
    return [
        found for name in given for found in (name, *([f"{name}.gz"] if name.endswith((".json", ".jsonl")) else []))
    ]


def plain_or_zipped(path: Path) -> Path:
    """The file, or the one that is there with `.gz` or without it."""
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
    return other if other.is_file() and not path.is_file() else path


def fingerprint(path: Path) -> dict[str, Any]:
    """What the manifest says of a file: its name, size and the sha256 of its bytes."""
    with path.open("rb") as stream:
        return {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
        }


# -------------------------------------------------------------------------------------------------------------- files


def read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a .json (one list, or one row a line), .jsonl, .csv or .parquet file; .json and .jsonl also .gz."""
    names = path.name.lower().removesuffix(".gz")
    if names.endswith(".parquet"):
        return _parquet(path)
    if names.endswith(".csv"):
        return _csv(path)
    if names.endswith(".jsonl") or (names.endswith(".json") and not _is_list(path)):
        return _lines(path)
    if names.endswith(".json"):
        return json_items(path)
    raise UserError(f"{path}: is not .json, .jsonl, .csv or .parquet; these are the layouts this source is known in")


def _open(path: Path) -> io.BufferedIOBase:
    try:
        stream = gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is the path right?") from None
    return stream


def _is_list(path: Path) -> bool:
    with _open(path) as stream:
        try:
            return stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{"
        except (OSError, EOFError) as error:
            raise UserError(f"{path}: cannot be unpacked ({error}); is the download complete?") from None


def json_items(path: Path, *keys: str) -> Iterator[tuple[str, Any]]:
    """The elements of the list that is the file, or that stands under `keys` in it.

    The file is mapped, not read: the list is found in one pass of the parser, and each element is decoded on its own.
    """
    kind: Any = list[msgspec.Raw]
    for key in reversed(keys):
        kind = msgspec.defstruct("Holder", [("inner", kind)], rename={"inner": key})
    for place, raw in enumerate(_list_in(path, _contents(path), kind, keys), start=1):
        yield f"{path.name} row {place}", _DECODE.decode(raw) if isinstance(raw, msgspec.Raw) else raw


def _contents(path: Path) -> Any:
    """The bytes of a file, mapped where possible. Never closed here: each raw element holds on to the map."""
    with _open(path) as stream:
        if isinstance(stream, gzip.GzipFile) or path.stat().st_size == 0:
            return stream.read()
        data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        return data[3:] if bytes(data[:3]) == b"\xef\xbb\xbf" else data


def _list_in(path: Path, text: Any, kind: Any, keys: tuple[str, ...]) -> list[Any]:
    where = "".join(f"[{key!r}]" for key in keys)
    try:
        value = msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: expected a list of rows{f' in {where}' if keys else ''} ({error})") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if "escape" in str(error) or "surrogate" in str(error):
            return _list_by_json(path, text, keys)
        raise UserError(f"{path}: not JSON ({error}); is the download complete?") from None
    for _ in keys:
        value = value.inner
    return value  # type: ignore[no-any-return]


def _list_by_json(path: Path, text: Any, keys: tuple[str, ...]) -> list[Any]:
    """A file with half of a surrogate pair somewhere, which msgspec refuses whole: so the row can be told by itself."""
    try:
        value = json.loads(bytes(text))
        for key in keys:
            value = value[key]
        return list(value)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not JSON ({error}); is the download complete?") from None


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with _open(path) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    yield f"{path.name}:{number}", _DECODE.decode(line.removeprefix(b"\xef\xbb\xbf"))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    yield f"{path.name}:{number}", RecordError(f"not a line of JSON ({error})")
        except (OSError, EOFError) as error:
            raise UserError(f"{path}: cannot be unpacked ({error}); is the download complete?") from None


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            for row in rows:
                place = f"{path.name}:{rows.line_num}"
                whole = None not in row and None not in row.values()
                yield place, row if whole else RecordError(f"not the {len(rows.fieldnames or [])} columns of the head")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{path}: reading parquet needs pyarrow: {FORMATS_EXTRA}") from None
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", row
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as parquet ({error}); is the download complete?") from None


# ---------------------------------------------------------------------------------------------------------------- hub


def read_hub(hub: Hub, *, stream: bool) -> Iterator[tuple[str, Any]]:
    """The rows of a dataset of the hub, or of a folder laid out like one, as `datasets` loads it; images undecoded."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"--hub needs the library datasets: {FORMATS_EXTRA}") from None
    number = 0
    try:
        rows = datasets.load_dataset(
            hub.id,
            hub.config,
            data_files=hub.data_files,
            split=hub.split,
            revision=None if Path(hub.id).is_dir() else hub.revision,
            streaming=stream,
        ).with_format("arrow")
        for table in rows.iter(batch_size=256):
            for row in table.to_pylist():
                number += 1
                yield f"{hub.id} row {number}", row
    except Exception as error:  # network, hub, builders and file formats raise their own, without a common root
        raise UserError(_why_not(hub, error)) from None


def _why_not(hub: Hub, error: Exception) -> str:
    asked = ", ".join(
        f"{name} {value}"
        for name, value in (
            ("config", hub.config), ("split", hub.split), ("files", hub.data_files), ("revision", hub.revision)
        )
        if value
    )  # fmt: skip
    said = str(error).strip().splitlines()
    return (
        f"{hub.id} ({asked}) cannot be loaded: {type(error).__name__}: {said[0][:300] if said else 'no reason given'}\n"
        "without a network, get its files elsewhere and use --folder, or put a copy of the repository into a folder "
        "and give that: --hub FOLDER"
    )


def resolved_revision(hub: Hub) -> str | None:
    """The commit that was read; None where the hub cannot be asked (a folder, or offline from the cache)."""
    if Path(hub.id).is_dir():
        return None
    try:
        from huggingface_hub import HfApi

        return HfApi().dataset_info(hub.id, revision=hub.revision).sha
    except Exception:  # as above; the manifest then says that it is not known
        return None


def files_below(folder: Path) -> Iterable[Path]:
    """What a folder laid out like a repository of the hub holds, for the manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
