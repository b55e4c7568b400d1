"""A labelling guide: a Markdown file whose front matter says what is scored, and whose text says how.

    ---
    name: helpsteer
    attributes:
      helpfulness: {low: 0, high: 4, aliases: [helpful]}
    ---
    # How to rate a completion ...

The guide is sent to the annotator word for word; the sha256 of the file's bytes goes into every record.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from annotate.errors import RecordError, UserError
from annotate.records import Annotated, Rubric, Scale

FOLDER = Path(__file__).parent / "rubrics"
RESERVED = {"completion", "rationale", "reasoning", "ratings", "preference"}
"""Words of the reply form, which cannot name an attribute as well."""


def shipped() -> list[str]:
    """Names of the rubrics that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def load_rubric(name_or_path: str) -> tuple[Rubric, str]:
    """A shipped rubric by name, or any rubric by the path of its file; with it the guide's text.

    Raises `UserError` with every fault of the file.
    """
    path = _find(name_or_path)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}); a rubric is a UTF-8 Markdown file") from None
    opening, _, rest = text.partition("\n")
    matter, closing, guide = rest.partition("\n---\n")
    if opening.strip() != "---" or not closing:
        raise UserError(f"{path}:1: a rubric starts with front matter between two lines of `---`")
    import yaml  # not needed by those who only read replies

    try:
        front = yaml.safe_load(matter)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: front matter is not YAML ({' '.join(str(error).split())})") from None
    faults = list(_faults(front, guide))
    if faults:
        raise UserError(*(f"{path}: {fault}" for fault in faults))
    scales = {
        name: Scale(low=scale["low"], high=scale["high"], aliases=tuple(scale.get("aliases", ())))
        for name, scale in front["attributes"].items()
    }
    rubric = Rubric(name=front["name"], sha256=hashlib.sha256(data).hexdigest(), attributes=scales)
    return rubric, guide.strip()


def check_scores(annotated: Annotated, rubric: Rubric | None = None) -> None:
    """Raise `RecordError` for a score of 5 where the rubric ends at 4.

    Without `rubric` it is the shipped one that an annotation says it followed; any other cannot be looked up.
    """
    for annotation in annotated.annotations:
        known = rubric or followed(annotation.rubric, annotation.rubric_sha256)
        if known is None:
            continue
        for rating in annotation.ratings:
            try:
                known.check(rating.scores)
            except RecordError:
                known.check(rating.scores, f"annotation {annotation.id}, completion {rating.completion_id}")


@lru_cache(maxsize=64)
def followed(name: str, sha256: str) -> Rubric | None:
    """The shipped rubric of this name, if it is the very one."""
    found = load_rubric(name)[0] if name in shipped() else None
    return found if found and found.sha256 == sha256 else None


def _find(name_or_path: str) -> Path:
    if name_or_path in shipped():
        return FOLDER / f"{name_or_path}.md"
    path = Path(name_or_path)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, shipped(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"no rubric {name_or_path!r}{hint}  Shipped: {', '.join(shipped())}; or give the path of a file")


def _faults(front: Any, guide: str) -> Iterator[str]:
    """Everything wrong with the front matter and the guide."""
    if not isinstance(front, dict) or set(front) != {"name", "attributes"}:
        yield "front matter must have exactly `name` and `attributes`"
        return
    if not isinstance(front["name"], str) or not front["name"].strip():
        yield "name: expected a word"
    if not guide.strip():
        yield "there is no guide below the front matter"
    attributes = front["attributes"]
    if not isinstance(attributes, dict) or not attributes:
        yield "attributes: expected at least one `name: {low: 0, high: 4}`"
        return
    seen: dict[str, str] = {}
    for name, scale in attributes.items():
        where = f"attributes.{name}"
        if not isinstance(scale, dict) or not {"low", "high"} <= set(scale) <= {"low", "high", "aliases"}:
            yield f"{where}: expected {{low: 0, high: 4}}, with `aliases: [...]` if wanted"
            continue
        low, high, aliases = scale["low"], scale["high"], scale.get("aliases", [])
        if type(low) is not int or type(high) is not int or not 0 <= low < high:
            yield f"{where}: low and high must be whole numbers with 0 <= low < high, got {low!r} and {high!r}"
        if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            yield f"{where}.aliases: expected a list of words"
            continue
        for word in {spelling(str(name)), *map(spelling, aliases)}:
            if not isinstance(name, str) or not word:
                yield f"{where}: expected names made of letters"
            elif word in RESERVED:
                yield f"{where}: {word!r} is a word of the reply form; call it otherwise"
            elif word in seen:
                yield f"{where}: {word!r} also names {seen[word]}"
            seen[word] = str(name)


@lru_cache(maxsize=4096)
def spelling(name: str) -> str:
    """The letters and digits of a name, in lower case: how names in replies are compared."""
    return "".join(c for c in name.casefold() if c.isalnum())
