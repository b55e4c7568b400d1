"""Whether what a run trained on holds the questions it was evaluated with: counts per suite, or why it is not known.

    {"trained_on": ["preference", "steerlm"], "n_prompts": 801, "n_images": 412, "sets": [
      {"file": "pope.jsonl", "suites": ["pope", "pope_blank"], "n": 300, "exact": 0, "ngrams": 2, "same_image": 0,
       "near_image": 12, "asked_again": 0, "unknown": 0, "notes": []},
      {"file": "choice.jsonl", "suites": ["choice"], "n": 0, "why": "has changed since the evaluation", "notes": []}],
     "notes": ["what the model had been trained on before this run is not known here"]}

Found by `align.overlap`, as in `align doctor --against`, which names the questions too. `asked_again` are questions
whose text and image meet in one training prompt (without an image: whose text stands in one).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.benchmarks.suite import Suite
from align.benchmarks.suites import find_suites
from align.benchmarks.text_rows import load_text, text_files
from align.context import Context
from align.digest import file_sha256
from align.doctor.sets import Gallery, entry_of
from align.evaluate.exam_files import read_asked
from align.overlap import Entry, Overlap
from align.report.pieces import Cell, note, table, text
from align.report.words import SUITES
from align.settings import Evaluate
from annotate.errors import UserError
from annotate.records import Annotated, Completion, Example, PreferencePair, Prompt

MOST_IMAGES = 1500
"""With more of them images are compared by their bytes alone: to look at each takes about 5 ms."""
SETS = {"dpo": "preference", "steerlm": "steerlm", "rejection": "rejection"}
_HUB = "came from the hub and is not kept"
Found = Mapping[str, Any]


def contamination(context: Context, annotated: Sequence[Annotated]) -> dict[str, Any]:
    """What stands in both; nothing where the recipe trains on nothing or evaluates nothing."""
    settings = context.recipe.evaluate
    if settings is None or not context.has("evaluate"):
        return {}
    notes = ["what the model had been trained on before this run is not known here: not checked"]
    prompts: dict[str, tuple[Prompt, dict[str, None]]] = {}
    used = []
    for name, records in _trained_on(context, annotated, notes):
        used.append(name)
        for prompt, texts in records:
            prompts.setdefault(prompt.id, (prompt, {}))[1].update(dict.fromkeys(texts))
    if not used:
        return {}
    root = Path(context.recipe.prompts.image_root) if context.recipe.prompts else Path()
    images = {image.sha256 for prompt, _ in prompts.values() for image in prompt.images}
    seen = root if root.is_dir() and len(images) <= MOST_IMAGES else None
    if images and seen is None:
        notes.append(f"{len(images):,} images were compared by their bytes alone: resized copies are not found")
    gallery = Gallery(seen)
    entries = [_entry(prompt, texts, gallery) for prompt, texts in prompts.values()]
    return {
        "trained_on": used,
        "n_prompts": len(prompts),
        "n_images": len(images),
        "sets": [*_visual(context, settings, entries, seen), *_texts(context, settings, entries)],
        "notes": notes,
    }


def _trained_on(
    context: Context, annotated: Sequence[Annotated], notes: list[str]
) -> Iterator[tuple[str, list[tuple[Prompt, list[str]]]]]:
    """Each training set: its prompts with what the model is taught, or taught not, to answer."""
    for stage, name in SETS.items():
        if context.has(stage) and context.has("pairs"):
            if name == "preference":
                pairs = context.records("pairs", f"{name}.jsonl", PreferencePair)
                yield name, [(p.prompt, [p.chosen.text, p.rejected.text]) for p in pairs]
            else:
                examples = context.records("pairs", f"{name}.jsonl", Example)
                yield name, [(e.prompt, [e.completion]) for e in examples]
    if context.has("sft") and context.has("teach"):
        known = {row.prompt.id: row.prompt for row in annotated}
        answers = context.records("teach", "completions.jsonl", Completion)
        if any(a.prompt_id not in known for a in answers):
            try:
                known |= {prompt.id: prompt for prompt in context.prompts().prompts}
            except UserError as error:
                notes.append(f"sft: not checked ({error.faults[0]})")
                return
        yield "sft", [(known[a.prompt_id], [a.text]) for a in answers if a.prompt_id in known]


def _entry(prompt: Prompt, texts: Mapping[str, None], gallery: Gallery) -> Entry:
    bare = entry_of(prompt, gallery)
    return Entry(
        id=bare.id, texts=(*bare.texts, *texts), images=bare.images, n_images=bare.n_images, unopened=bare.unopened
    )


def _visual(
    context: Context, settings: Evaluate, entries: Sequence[Entry], seen: Path | None
) -> Iterator[dict[str, Any]]:
    """The benchmarks of `evaluate.suites`, each file once for all suites that ask its questions."""
    by_file: dict[str, list[Suite]] = {}
    for suite in find_suites(settings.suites):
        by_file.setdefault(suite.file, []).append(suite)
    for name, suites in by_file.items():
        row: dict[str, Any] = {"file": name, "suites": [suite.name for suite in suites], "n": 0, "notes": []}
        if "hub" in settings.files.get(name, {}):
            yield row | {"why": _HUB}
            continue
        published = settings.files.get(name, {})
        file = Path(published.get("questions") or Path(settings.folder) / f"{name}.jsonl")
        why = "" if published and "questions" not in published else _changed(context, file, name if published else "")
        try:
            asked = None if why else read_asked(suites[0], settings)
        except UserError:
            asked, why = None, "can no longer be read"
        if asked is None:
            yield row | {"file": file.name, "why": why}
            continue
        row["file"] = asked.file.name
        gallery = Gallery(None if seen is None else asked.root or seen)
        # A dialogue is asked again where its first question is: "Say that again" stands in many.
        questions = [replace(entry_of(r.prompt, gallery), id=r.id, texts=(r.questions[0].text,)) for r in asked.rows]
        yield row | _counts(name, questions, entries)


def _texts(context: Context, settings: Evaluate, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """The text benchmarks: whatever a row says in words is a text of its question, the longest first."""
    if settings.text is None:
        return
    for name in settings.text.tasks:
        row = {"file": name, "suites": [name], "n": 0, "notes": []}
        one = replace(settings.text, tasks=(name,))
        if not one.folder:
            yield row | {"why": _HUB}
            continue
        try:
            (suite,) = load_text(one)
            why = next(filter(None, (_changed(context, file) for file in text_files(one))), "")
        except UserError:
            yield row | {"why": "can no longer be read"}
            continue
        questions = [
            Entry(
                id=d.id, texts=tuple(sorted((v for v in d.row.values() if isinstance(v, str)), key=len, reverse=True))
            )
            for d in suite.documents
        ]
        yield row | ({"why": why} if why else _counts(name, questions, entries))


def _changed(context: Context, file: Path, named: str = "") -> str:
    """Why a benchmark's file cannot be said to be what was asked; `named`: under a key of `evaluate.files`."""
    if not file.is_file():
        return "is no longer there"
    manifest = json.loads(context.path("evaluate", "manifest.json").read_text(encoding="utf-8"))
    key = f"benchmark {named} questions" if named else f"benchmark {file.name}"
    asked = manifest["inputs"].get(key)
    return "has changed since the evaluation" if asked and asked != file_sha256(file) else ""


def _counts(name: str, questions: Sequence[Entry], entries: Sequence[Entry]) -> dict[str, Any]:
    overlap = Overlap(name, questions)
    for entry in entries:
        overlap.add(entry)
    found = overlap.result()
    words, images = found["text"], found["images"]
    notes = []
    if words["exact_only"]:
        notes.append(f"{words['exact_only']} questions are too short or too alike for n-grams: only whole texts count")
    if images["n_unreadable"] or images["n_records_unreadable"]:
        notes.append("some images could not be read: not compared")
    leaked = found["leaked"]
    return {
        "n": found["n"],
        "exact": words["exact"],
        "ngrams": words["contained"],
        "same_image": images["same"],
        "near_image": images["near"] + images["name"],
        "has_images": any(question.n_images for question in questions),
        "asked_again": 0 if leaked["value"] is None else round(leaked["value"] * leaked["n"]),
        "unknown": found["n_unknown"],
        "notes": notes,
    }


# ----------------------------------------------------------------------------------------------------------- in words


def overlap_lines(found: Found) -> list[str]:
    """For the terminal: what was compared, then a line per benchmark file."""
    if not found:
        return []
    lines = [f"evaluation questions in the training data ({_what(found)}):"]
    for row in found["sets"]:
        names = ", ".join(SUITES.get(s, s) for s in row["suites"])
        lines.append(f"  {names}: {_told(row)}")
    return lines


def _what(found: Found) -> str:
    return f"{found['n_prompts']:,} prompts of {', '.join(found['trained_on'])}"


def _told(row: Found) -> str:
    if row.get("why"):
        return f"not checked ({row['file']} {row['why']})"
    told = f"{row['asked_again']} of {row['n']} asked again; text {row['exact']} exact, {row['ngrams']} by n-grams"
    told += f"; image {row['same_image']} same, {row['near_image']} near" if row["has_images"] else ""
    return told + (f"; {row['unknown']} not known" if row["unknown"] else "")


def overlap_html(found: Found) -> str:
    """The section of the page."""
    if not found:
        return ""
    head = ["", "questions", "asked again", "exact text", "n-grams", "same image", "near image"]
    body: list[list[Cell]] = []
    for row in found["sets"]:
        names = ", ".join(SUITES.get(s, s) for s in row["suites"])
        if row.get("why"):
            body.append([names, ("–", f"not checked: {row['file']} {row['why']}"), *["–"] * 5])
            continue
        again = (f"{row['asked_again']:,}", f"{row['unknown']} not known" if row["unknown"] else "")
        images = [f"{row[key]:,}" if row["has_images"] else "–" for key in ("same_image", "near_image")]
        body.append([names, f"{row['n']:,}", again, f"{row['exact']:,}", f"{row['ngrams']:,}", *images])
    notes = [*found["notes"], *dict.fromkeys(f"{r['suites'][0]}: {n}" for r in found["sets"] for n in r["notes"])]
    lede = (
        f"The questions of the evaluation against {_what(found)}. Asked again: text and image meet in one training "
        "prompt (a question without image: its text stands in one). A text is exact where a whole turn of the question "
        "stands there, word for word; by n-grams where half of its 13-word (or 8-word) sequences do. align doctor "
        "--against names the questions."
    )
    title = "Was the evaluation in the training data?"
    return (
        f'<section id="contamination">\n<h2>{title}</h2>\n<p class="lede">{text(lede)}</p>\n'
        f"{table(head, body)}{''.join(map(note, notes))}</section>\n"
    )
