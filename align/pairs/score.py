"""What the builders share: the rule made ready, the rated completions of a prompt, seeded draws, why there is nothing.

Every draw is a hash of (seed, purpose, prompt id, ...): it depends neither on the order of the prompts, nor on that of
the completions, nor on what else is in the file. That also makes subsets nested: who is in a fraction of 0.25 is in
every larger one (the data-scaling curve of Multi-Modal Preference Alignment, Figure 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from operator import itemgetter, mul

from msgspec import Struct

from align.pairs.shapes import misshapen
from align.settings import Pairs
from annotate.errors import UserError
from annotate.records import IMAGE_PLACEHOLDER, Annotated, Annotation, Completion, Failure, Reason

STAGE = "pairs"
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""HelpSteer's attributes in the paper's order (Table 1); those of other rubrics follow in alphabetical order."""


class Rated(Struct, frozen=True, gc=False):
    """A completion that can be compared: its mean score per attribute, and their weighted sum."""

    completion: Completion
    scores: Mapping[str, float]
    score: float
    text: str
    """Without white space at its ends: what two completions are compared and measured by."""


class Group(Struct, frozen=True, gc=False):
    """A prompt as all builders see it; made once by `group_of`, whatever the number of training sets."""

    row: Annotated
    rated: list[Rated]
    """Completions with a score and a text, by index."""
    empty: int
    """Rated completions without a text."""
    cut: int
    """Rated completions left out because they were cut off."""
    marked: int = 0
    """Rated completions that contain `<image>`: trainers would look for an image there."""


class Rule:
    """The settings made ready for many prompts: checked, with the weights looked up and the rule in words."""

    __slots__ = ("_values", "compares", "names", "seed", "settings", "text", "weights")

    def __init__(self, settings: Pairs, *, seed: int) -> None:
        check_settings(settings)
        self.settings = settings
        self.seed = seed
        self.compares = settings.basis == "preferences"
        score = () if self.compares else settings.score
        self.names = tuple(score)
        self.weights = tuple(score.values()) if isinstance(score, Mapping) else None
        self._values = _getter(self.names)
        self.text = _in_words(settings)

    def score(self, scores: Mapping[str, float]) -> float | None:
        """The (weighted) sum; None where an attribute is missing."""
        try:
            values = self._values(scores)
        except KeyError:
            return None
        total = sum(values) if self.weights is None else sum(map(mul, self.weights, values))
        # means of several passes are thirds and sevenths: without rounding a margin of 2 would come out as 1.9999999
        return float(total) if type(total) is int else round(total, 6)


def _getter(names: Sequence[str]) -> Callable[[Mapping[str, float]], Sequence[float]]:
    """The values of these names, in order; `itemgetter` makes a sequence of two or more only."""
    return itemgetter(*names) if len(names) > 1 else lambda scores: [scores[name] for name in names]


def _in_words(settings: Pairs) -> str:
    """The rule in one line, as it stands in every pair; options that are off are not spoken of."""
    score = settings.score
    terms = [f"{w:g}*{name}" for name, w in score.items()] if isinstance(score, Mapping) else list(score)
    total = "+".join(terms).replace("+-", "-")
    words = (
        f"score={total}, chosen={settings.chosen}, ties={settings.ties}, "
        f"rejected={settings.rejected}, min_margin={settings.min_margin:g}"
    )
    if settings.basis == "preferences":
        words = "basis=preferences"
    if settings.cut_off == "drop":
        words += ", cut_off=drop"
    if settings.max_length_ratio is not None:
        words += f", max_length_ratio={settings.max_length_ratio:g}"
    if settings.max_pairs is not None:
        words += f", max_pairs={settings.max_pairs}"
    if isinstance(settings.length_gap, tuple):
        low, high = settings.length_gap
        words += f", length_gap={'' if low is None else low}..{'' if high is None else high}"
    return words


def check_settings(settings: Pairs) -> None:
    """Raise `UserError` listing every impossible value."""
    odd = list(misshapen(settings))
    if odd:  # then there is nothing to compare with a limit
        raise UserError(*odd)
    score = settings.score
    faults = []
    if "preference" not in settings.sets or len(set(settings.sets)) != len(settings.sets):
        faults.append(f"pairs.sets: {list(settings.sets)}; name preference and any others, each once")
    if isinstance(score, str):
        faults.append(f"pairs.score: {score!r} is no name of a sum; for one attribute write [{score}]")
    elif not score or len(set(score)) != len(score):
        faults.append(f"pairs.score: {list(score)}; name at least one attribute, each once")
    elif isinstance(score, Mapping) and not all(math.isfinite(w) and w for w in score.values()):
        faults.append(f"pairs.score: {dict(score)}; a weight is a number other than 0")
    if settings.min_margin < 0:
        faults.append(f"pairs.min_margin: {settings.min_margin:g}; chosen minus rejected cannot be below 0")
    if settings.max_pairs is not None and settings.max_pairs < 1:
        faults.append(f"pairs.max_pairs: {settings.max_pairs}; expected 1 or more")
    if settings.max_length_ratio is not None and settings.max_length_ratio < 1:
        faults.append(f"pairs.max_length_ratio: {settings.max_length_ratio:g}; longer by shorter is at least 1")
    gap = settings.length_gap
    if isinstance(gap, tuple) and (len(gap) != 2 or (None not in gap and gap[0] > gap[1])):  # type: ignore[operator]
        faults.append(f"pairs.length_gap: {list(gap)}; expected [low, high], null for an open end")
    if not 0 < settings.fraction <= 1:
        faults.append(f"pairs.fraction: {settings.fraction:g}; expected a share above 0, at most 1")
    if not 0 <= settings.flip <= 1:
        faults.append(f"pairs.flip: {settings.flip:g}; expected a share from 0 to 1")
    template = settings.steerlm_template
    if template != "nvidia" and ("{attributes}" not in template and "{labels}" not in template):
        faults.append("pairs.steerlm_template: must hold {attributes} or {labels}, or be nvidia")
    if IMAGE_PLACEHOLDER in template:
        faults.append(f"pairs.steerlm_template: must hold no {IMAGE_PLACEHOLDER}")
    if IMAGE_PLACEHOLDER in settings.hindsight_template or not settings.hindsight_template.strip():
        faults.append(f"pairs.hindsight_template: must hold a text, and no {IMAGE_PLACEHOLDER}")
    if faults:
        raise UserError(*faults)


# ----------------------------------------------------------------------------------------------------------- draws


def draw(seed: int, *names: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = sha256("\x1f".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def pick(candidates: Sequence[Rated], seed: int, purpose: str, prompt_id: str) -> Rated:
    """One of `candidates`, each as likely as the next, whatever their order."""
    if len(candidates) == 1:
        return candidates[0]
    names = f"{seed}\x1f{purpose}\x1f{prompt_id}\x1f"
    # by the very bytes that `draw` makes its number of
    lots = [sha256((names + c.completion.id).encode()).digest() for c in candidates]
    return candidates[lots.index(min(lots))]


def once_each(rated: Iterable[Rated]) -> list[Rated]:
    """Without those whose text another had before them."""
    found: dict[str, Rated] = {}
    for one in rated:
        found.setdefault(one.text, one)
    return list(found.values())


def in_fraction(prompt_id: str, fraction: float, seed: int) -> bool:
    """Whether a prompt belongs to the seeded, nested subset; the same for every training set made of it."""
    return fraction >= 1 or draw(seed, "fraction", prompt_id) < fraction


# ----------------------------------------------------------------------------------------------------------- groups


def group_of(row: Annotated, rule: Rule) -> Group:
    """The completions of a prompt that can be compared. Raises `UserError` where `pairs.score` is misspelt."""
    known = _compared(row.annotations) if rule.compares else mean_scores(row.annotations)
    drop_cut = rule.settings.cut_off == "drop"
    rated = []
    empty = cut = marked = 0
    completions = row.completions
    if not all([c.index == i for i, c in enumerate(completions)]):
        completions = tuple(sorted(completions, key=lambda c: (c.index, c.id)))
    for completion in completions:
        scores = known.get(completion.id)
        if scores is None:
            continue
        score = rule.score(scores)
        if score is None:  # an attribute is missing: this one cannot be compared
            continue
        text = completion.text.strip()
        if not text:
            empty += 1
        elif IMAGE_PLACEHOLDER in text:
            marked += 1
        elif drop_cut and completion.finish_reason == "length":
            cut += 1
        else:
            rated.append(Rated(completion, scores, score, text))
    if known and not rated:
        _look_for_misspelling(row, known, rule)
    return Group(row, rated, empty, cut, marked)


def mean_scores(annotations: Sequence[Annotation]) -> dict[str, Mapping[str, float]]:
    """Completion id -> attribute -> mean over the annotations that rated it; the scores as given where one did."""
    found: dict[str, Mapping[str, float]] = {}
    again: set[str] = set()
    for annotation in annotations:
        for rating in annotation.ratings:
            if rating.completion_id in found:
                again.add(rating.completion_id)
            else:
                found[rating.completion_id] = rating.scores
    if again:
        in_order = sorted(annotations, key=lambda a: (a.pass_index, a.id))  # whatever the order of the file
        for id in again:
            given = [r.scores for a in in_order for r in a.ratings if r.completion_id == id]
            found[id] = {name: _mean([s[name] for s in given if name in s]) for s in given for name in s}
    return found


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)


def _compared(annotations: Iterable[Annotation]) -> dict[str, Mapping[str, float]]:
    """What stands in a pairwise annotation, without scores."""
    return {id: {} for a in annotations if a.mode == "pairwise" for id in a.shown_order}


def _look_for_misspelling(row: Annotated, known: Mapping[str, Mapping[str, float]], rule: Rule) -> None:
    """An attribute that nothing is rated for, but that looks like one that is: every prompt would fail alike."""
    rated_for = {name for scores in known.values() for name in scores}
    for name in rule.names:
        if name not in rated_for:
            from difflib import get_close_matches  # only to word an error

            near = get_close_matches(name, sorted(rated_for - set(rule.names)), n=1, cutoff=0.8)
            if near:
                raise UserError(
                    f"pairs.score: prompt {row.prompt.id} is not rated for {name!r} but for "
                    f"{', '.join(sorted(rated_for))}; did you mean {near[0]!r}?"
                )


def too_few(group: Group, rule: Rule, at_least: int) -> Failure | None:
    """Why fewer than `at_least` completions can be used; None where there are enough."""
    n = len(group.rated)
    if n >= at_least:
        return None
    row, scored = group.row, n + group.empty + group.cut + group.marked
    total = len(row.completions)
    if total < at_least:
        return failure(row, Reason.COMPLETIONS_MISSING, f"{total} completion(s)")
    if scored < at_least:
        verb = "compared" if rule.compares else "rated"
        detail = f"{scored} of {total} completions are {verb}"
        lacking = _lacking(row, rule)
        return failure(row, Reason.UNRATED, f"{detail} for {lacking}" if lacking else detail)
    if n + group.empty + group.marked < at_least:
        return failure(row, Reason.CUT_OFF, f"{group.cut} of {scored} completions were cut off at max_new_tokens")
    if n + group.empty < at_least:
        detail = f"{group.marked} of {scored} completions contain {IMAGE_PLACEHOLDER}, which would be read as an image"
        return failure(row, Reason.INVALID_INPUT, detail)
    return failure(row, Reason.COMPLETION_EMPTY, f"{group.empty} of {scored} completions are empty")


def _lacking(row: Annotated, rule: Rule) -> str:
    """The attributes of the score that some rating does without."""
    given = [rating.scores for annotation in row.annotations for rating in annotation.ratings]
    return ", ".join(name for name in rule.names if any(name not in scores for scores in given))


def attributes_of(row: Annotated) -> frozenset[str]:
    """What any completion of the prompt is rated for."""
    return frozenset(name for a in row.annotations for rating in a.ratings for name in rating.scores)


def difference(better: Rated, worse: Rated) -> float:
    """Points between two completions."""
    return round(better.score - worse.score, 6)


def widest_difference(rated: Sequence[Rated]) -> float:
    """Points between the best and the worst of a prompt."""
    scores = [r.score for r in rated]
    return round(max(scores) - min(scores), 6)


def failure(annotated: Annotated, reason: Reason, detail: str) -> Failure:
    return Failure(stage=STAGE, record_id=annotated.prompt.id, reason=reason, detail=detail)
