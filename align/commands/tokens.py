"""`align tokens FILE... --model FOLDER`: what training on these rows will cost, in tokens and operations."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.console import Console
from align.tokens import FORMULA, Flops, Tokens, as_json, smallest, table, training_flops
from annotate.errors import UserError
from annotate.jsonl import write_text

if TYPE_CHECKING:
    from align.train.counted import Counted

EXAMPLES = "examples.jsonl"
MOSTLY_OUT = "* more than half of its rows are left out: these numbers are not the file's"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE",
        help="examples, prompts with a reference, or conversations, *.jsonl; or the folder that align mix wrote",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        required=True,
        metavar="FOLDER",
        help="a VLM, or the stage that trained it: its tokenizer and processor count; weights are not read",
    )
    parser.add_argument("--image-root", default=".", metavar="DIR", help="folder that image paths are relative to")
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="tokens of a row (default: what the model was built for)"
    )
    parser.add_argument(
        "--language", choices=("full", "lora", "frozen"), default="full",
        help="how the language model learns, for the operations; the projector learns, the tower does not",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="also write tokens.json and tokens.txt there")
    parser.epilog = f"Operations: {FORMULA}."


def run(options: argparse.Namespace, console: Console) -> int:
    """Count; raises `UserError` for a file, folder or model that cannot be read, and then nothing is written."""
    root = Path(options.image_root)
    if not root.is_dir():
        raise UserError(f"--image-root: {root} is not a folder; image paths are relative to it")
    if options.max_length is not None and options.max_length < 1:
        raise UserError(f"--max-length: {options.max_length}; expected 1 or more")
    paths = {name: _file(Path(name)) for name in dict.fromkeys(options.files)}
    missing = [f"{path}: no such file" for path in paths.values() if not path.is_file()]
    if missing:
        raise UserError(*missing)
    counted, flops, limit = _count(paths, _model(Path(options.model)), root, options, console)
    empty = [
        f"{paths[name]}: no row that can be trained on{_why(found)}"
        for name, found in counted.items()
        if not found.tokens.rows
    ]
    if empty:
        raise UserError(*empty)
    accounts = {name: found.tokens for name, found in counted.items()}
    starred = {name: name + " *" * _mostly_out(found) for name, found in counted.items()}
    shown = table(
        {starred[name]: its for name, its in accounts.items()},
        flops={starred[name]: its for name, its in flops.items()},
    )
    text = "\n".join([shown, *([MOSTLY_OUT] if any(map(_mostly_out, counted.values())) else []), *_left_out(counted)])
    told = {
        "model": options.model, "max_length": limit, "language": options.language, "formula": FORMULA,
        "files": {name: _as_json(found, smallest(accounts.values()), flops[name]) for name, found in counted.items()},
    }  # fmt: skip
    if options.out:
        _write(Path(options.out), text, told)
    console.result(text, **told)
    return 0


def _file(path: Path) -> Path:
    return path / EXAMPLES if path.is_dir() else path


def _model(folder: Path) -> Path:
    """The folder, or what a stage left in it, such as runs/mine/instruct."""
    inside = folder / "model"
    return inside if not (folder / "config.json").is_file() and (inside / "config.json").is_file() else folder


def _count(
    paths: Mapping[str, Path], folder: Path, root: Path, options: argparse.Namespace, console: Console
) -> tuple[dict[str, Counted], dict[str, Flops], int | None]:
    from align.models.lengths import Lengths
    from align.models.quiet import quiet
    from align.settings import Parts, Train
    from align.train.counted import asked_rows, count, model_of
    from align.train.modules import tensors
    from align.train.preflight import look_ahead

    with quiet():
        ahead = look_ahead(folder)
    lengths = Lengths(ahead.encoder)
    limit = options.max_length or ahead.n_positions
    model = model_of(
        list(tensors(folder)), ahead.config, Train(parts=Parts(language=options.language, projector="full"))
    )
    bar = console.bar("tokens", 0, 0)
    counted: dict[str, Counted] = {}
    try:
        for name, path in paths.items():
            total, done = _lines(path), 0

            def tell(rows: int, name: str = name, total: int = total) -> None:
                nonlocal done
                done += rows
                bar.set(done, total, name)

            counted[name] = count(asked_rows(path, root), lengths, limit=limit, progress=tell)
    finally:
        bar.close()
    return counted, {name: training_flops(found.tokens, model) for name, found in counted.items()}, limit


def _lines(path: Path) -> int:
    """Counted in a moment: the file is read as bytes."""
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _left_out(counted: Mapping[str, Counted]) -> Sequence[str]:
    return [
        f"{name}: {n:,} row(s) left out, {reason}: {found.details[reason]}"
        for name, found in counted.items()
        for reason, n in found.left_out.items()
    ]


def _mostly_out(found: Counted) -> bool:
    return sum(found.left_out.values()) > found.tokens.rows


def _why(found: Counted) -> str:
    return "".join(f"; {n:,} {reason}: {found.details[reason]}" for reason, n in found.left_out.items())


def _as_json(found: Counted, base: Tokens, flops: Flops) -> dict[str, Any]:
    return as_json(found.tokens, base, flops) | {"left_out": dict(found.left_out)}


def _write(out: Path, text: str, told: Mapping[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "tokens.txt", text + "\n")
        write_text(out / "tokens.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
