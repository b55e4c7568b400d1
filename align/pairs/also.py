"""Preferences of other origin in one training set with this run's own: `pairs: {also: [text_pairs.jsonl, ...]}`.

    text_pairs.jsonl       PreferencePair, or any format that holds pairs (TRL, RLAIF-V, ...): taken as they are
    helpsteer.jsonl        ratings in any format: paired by the rule of the block `pairs`
    ->  preference.jsonl   behind the run's own pairs; in the funnel under their source, or the name of
                         the file (of its folder, where it is a preference.jsonl)

This is how image pairs and text pairs (HelpSteer, UltraFeedback) make one DPO run, which the code of Multi-Modal
Preference Alignment does and its text does not speak of. Other training sets are not touched. The pairs of one prompt
stay together: a prompt that was there before gives no further pairs, and is accounted for as a Failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from align.formats.reading import Fault, UnknownFormat, read_file
from align.formats.store import ImageStore
from align.pairs.score import STAGE, Rule, draw, in_fraction
from align.pairs.sets import Made, Maker
from annotate.errors import UserError
from annotate.records import Annotated, Failure, PreferencePair, Prompt, Reason, Record, replace

Other = Annotated | tuple[PreferencePair, ...]
"""A prompt of another file: with its ratings, or with its ready pairs."""


def read_also(files: Sequence[str], root: Path) -> list[Other]:
    """The prompts of all files, in order. Raises `UserError` with every fault of every file."""
    found: list[Other] = []
    faults: list[str] = []
    for file in files:
        bad: list[Fault] = []
        try:
            found += _read(Path(file), root, bad)
        except UnknownFormat as error:  # a recipe has no --from
            faults.append(
                f"pairs.also: {error.what}; make one of a known format of it, `align convert {file} OUT.jsonl --from "
                "FORMAT --to mmalign`, and name that one here"
            )
        except UserError as error:
            faults += [f"pairs.also: {fault}" for fault in error.faults]
        faults += [f"pairs.also: {fault}" for fault in bad]
    if faults:
        raise UserError(*faults)
    return found


def _read(path: Path, root: Path, bad: list[Fault]) -> list[Other]:
    if not path.is_file():
        raise UserError(f"{path}: is not there; is the path right?")
    others: list[Other] = []
    ready: dict[str, list[PreferencePair]] = {}
    for record in read_file(path, images=ImageStore(root=root, root_name="prompts.image_root"), faults=bad):
        if isinstance(record, Annotated):
            others.append(replace(record, prompt=_named(record.prompt, path)))
        elif isinstance(record, PreferencePair):
            ready.setdefault(record.prompt.id, []).append(replace(record, prompt=_named(record.prompt, path)))
        else:
            raise UserError(f"{path}: holds {type(record).__name__} records; expected preferences or ratings")
    others += [tuple({pair.id: pair for pair in pairs}.values()) for pairs in ready.values()]
    if not others and not bad:
        raise UserError(f"{path}: holds no preference; delete it from the list, or is the path right?")
    return others


def _named(prompt: Prompt, path: Path) -> Prompt:
    """With a source to be counted under: the file's name, or its folder's where it is what `align pairs` wrote."""
    stem = path.name.partition(".")[0]
    name = path.absolute().parent.name if stem == "preference" else stem
    return prompt if prompt.source else replace(prompt, source=name or stem)


def prompt_of(other: Other) -> Prompt:
    return other.prompt if isinstance(other, Annotated) else other[0].prompt


def made_of(others: Sequence[Other], maker: Maker, known: set[str]) -> Iterator[Made]:
    """What each prompt gives to the set of preferences. `known`: the prompts that gave theirs already."""
    for other in others:
        prompt = prompt_of(other)
        if prompt.id in known:
            rows: list[Record] = [_left_out(prompt, "this prompt is in the training set already; its pairs stay")]
            yield Made(prompt.source, None, {"preference": rows}, {})
            continue
        known.add(prompt.id)
        if isinstance(other, Annotated):
            made = maker(other)
            yield made._replace(sets={"preference": made.sets["preference"]})
        else:
            yield Made(prompt.source, None, {"preference": _as_they_are(other, maker.rule)}, {})


def _as_they_are(pairs: Sequence[PreferencePair], rule: Rule) -> list[Record]:
    prompt, fraction = pairs[0].prompt, rule.settings.fraction
    if not in_fraction(prompt.id, fraction, rule.seed):
        return [_left_out(prompt, f"outside the fraction {fraction:g}")]
    return [_flipped(pair) if _is_flipped(pair, rule) else pair for pair in pairs]


def _left_out(prompt: Prompt, detail: str) -> Failure:
    return Failure(stage=STAGE, record_id=prompt.id, reason=Reason.FILTERED, detail=detail)


def _is_flipped(pair: PreferencePair, rule: Rule) -> bool:
    flip = rule.settings.flip
    return flip > 0 and draw(rule.seed, "flip", pair.prompt.id, pair.chosen.id, pair.rejected.id) < flip


def _flipped(pair: PreferencePair) -> PreferencePair:
    """With the label turned round; what came along with it (scores by side, log-probabilities) would be wrong."""
    return PreferencePair.of(
        prompt=pair.prompt,
        chosen=pair.rejected,
        rejected=pair.chosen,
        margin=None if pair.margin is None else -pair.margin,
        rule=f"{pair.rule}, flipped",
        evidence=pair.evidence,
    )
