"""Finds annotators by name, through the entry points `mmalign.annotators`: ours and third parties' by the same door.

    make_annotator("replay", "", {"file": "runs/a/annotate/replies.jsonl"})

Nothing is imported before it is asked for, so that a client library is needed only by the backend that uses it.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from annotate.errors import UserError
from annotate.protocol import ENTRY_POINT_GROUP, Annotator


def installed() -> list[str]:
    """Names of all annotators that are installed."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP).names)


def make_annotator(name: str, model: str, options: Mapping[str, Any]) -> Annotator:
    """The backend `name`, made as `Backend(model=model, **options)`.

    Raises `UserError`: no such annotator, a library is missing, it fails to load, or it has no such option.
    """
    found = sorted(entry_points(group=ENTRY_POINT_GROUP, name=name), key=str)
    if not found:
        have = ", ".join(installed()) or "none"
        raise UserError(f"no annotator {name!r}{_did_you_mean(name, installed())}  Installed: {have}")
    if len({e.value for e in found}) > 1:
        whose = " and ".join(_distribution(e) for e in found)
        raise UserError(f"annotator {name!r} is provided by {whose}; uninstall one of them")
    entry = found[0]
    try:
        backend = entry.load()
        _check_options(name, backend, options)
        annotator = backend(model=model, **options)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(_what_to_install(entry, error)) from error
    except Exception as error:
        whose = _distribution(entry)
        raise UserError(f"annotator {name!r} of {whose} fails to load: {type(error).__name__}: {error}") from error
    if not isinstance(annotator, Annotator):
        raise UserError(f"annotator {name!r} of {_distribution(entry)} is no Annotator: needs paid, model and reply()")
    return annotator


def _check_options(name: str, backend: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(backend).parameters
    known = [p for p in parameters if p != "model"]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    faults = [
        f"annotator {name!r} has no option {option!r}{_did_you_mean(option, known)}  Known: {', '.join(known)}"
        for option in options
        if option not in known
    ]
    faults += [
        f"annotator {name!r} needs the option {option!r}"
        for option in known
        if parameters[option].default is inspect.Parameter.empty and option not in options
    ]
    if faults:
        raise UserError(*faults)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _what_to_install(entry: EntryPoint, error: ModuleNotFoundError) -> str:
    """One line with the command: an extra that is named after the backend, or the library itself."""
    extra = entry.name.replace("_", "-")
    extras = (entry.dist.metadata.get_all("Provides-Extra") or []) if entry.dist else []
    what = f"{entry.dist.name}[{extra}]" if entry.dist and extra in extras else error.name
    return f"annotator {entry.name!r} needs the library {error.name!r}, which is not installed: pip install '{what}'"
