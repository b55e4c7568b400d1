"""`rules`: an annotator that knows the answers, for prompts that carry a checklist. Free, instant, without a network.

    prompt.meta["answer_key"] = {"form": "sentence",       # wanted: sentence, word, list, or any
                                 "claims": [{"vocabulary": ["red", "blue"], "truth": ["red"],
                                             "given": [],           # words that count neither way
                                             "ordered": false}]}    # whether the words' order is part of the claim

It grades claims, not length. Words of `vocabulary` in a completion are what it claims. Truth pays first: what claims
all that is true and nothing false scores higher on helpfulness + correctness + coherence than what claims anything
false, in any form. Then the wanted form pays. The same claims in the same form score the same at every length; length
decides complexity and verbosity alone.

It answers in the reply format like any other annotator and is read by the same parser. As a teacher it answers with the
prompt's reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from annotate.errors import RecordError
from annotate.prompting import Preference, Rated, write_reply
from annotate.protocol import Outcome, Reply, Request, Traits
from annotate.records import Reason

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
FORMS = ("sentence", "word", "list", "any")


class Rules:
    """Grades completions by the answer key of their prompt."""

    paid = False
    traits = Traits(deterministic=True, paced=False)

    def __init__(self, *, model: str = "") -> None:
        self.model = model or "rules-1"

    async def reply(self, request: Request) -> Reply:
        if not request.completions:
            return _teach(request)
        wanted = _attributes_wanted(request)
        if not wanted <= set(ATTRIBUTES):
            detail = f"rules cannot rate {', '.join(sorted(wanted - set(ATTRIBUTES)))}; use another backend"
            return Reply(outcome=Outcome.RUN_FATAL, detail=detail)
        try:
            key = AnswerKey.read(request.prompt.meta.get("answer_key"))
        except RecordError as error:
            return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.INVALID_INPUT, detail=str(error))
        grades = [grade(completion.text, key) for completion in request.completions]
        if wanted:
            rated = [replace(g, scores={n: g.scores[n] for n in ATTRIBUTES if n in wanted}) for g in grades]
            return Reply(outcome=Outcome.OK, text=write_reply(_reasoning(key), rated), model_version=self.model)
        first, second = (quality(g) for g in grades)
        preference: Preference = "tie" if first == second else "first" if first > second else "second"
        reasoning = " ".join([_reasoning(key), *(f"Completion {i}: {g.rationale}" for i, g in enumerate(grades, 1))])
        return Reply(outcome=Outcome.OK, text=write_reply(reasoning, preference=preference), model_version=self.model)


def _teach(request: Request) -> Reply:
    if request.prompt.reference is None:
        detail = "rules can only answer prompts that have a reference; use another backend"
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.INVALID_INPUT, detail=detail)
    return Reply(outcome=Outcome.OK, text=request.prompt.reference)


def _attributes_wanted(request: Request) -> set[str]:
    """The attributes that the reply's schema asks for; none in a pairwise request."""
    properties: Mapping[str, Any] = (request.schema or {}).get("properties", {})
    if "ratings" not in properties:
        return set()
    return set(properties["ratings"]["items"]["properties"]) - {"completion", "rationale"}


# --------------------------------------------------------------------------------------------------------- answer keys


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One thing that an answer claims, by the words it may be claimed with.

    Where `truth` is empty nothing needs to be claimed, and nothing may be but what is `given`.
    """

    vocabulary: tuple[str, ...]
    truth: tuple[str, ...]
    given: tuple[str, ...] = ()
    ordered: bool = False


@dataclass(frozen=True, kw_only=True)
class AnswerKey:
    """What is true, and in which form it is to be said."""

    form: str
    slots: tuple[Slot, ...]

    @classmethod
    def read(cls, raw: Any) -> AnswerKey:
        """Read `meta.answer_key`. Raises `RecordError` saying what is wrong with it."""
        if raw is None:
            raise RecordError("rules can only grade prompts with meta.answer_key; use another backend")
        if not isinstance(raw, Mapping) or raw.get("form") not in FORMS or not isinstance(raw.get("claims"), list):
            raise RecordError(f"meta.answer_key: expected form (one of {', '.join(FORMS)}) and claims (a list)")
        slots = tuple(_read_slot(claim, f"meta.answer_key.claims[{i}]") for i, claim in enumerate(raw["claims"]))
        if not any(slot.truth for slot in slots):
            raise RecordError("meta.answer_key.claims: expected at least one claim with a truth")
        return cls(form=raw["form"], slots=slots)


def _read_slot(raw: Any, where: str) -> Slot:
    known = {"vocabulary", "truth", "given", "ordered"}
    if not isinstance(raw, Mapping) or not {"vocabulary", "truth"} <= set(raw) <= known:
        raise RecordError(f"{where}: expected vocabulary and truth, and maybe given and ordered")
    words: dict[str, tuple[str, ...]] = {}
    for name in ("vocabulary", "truth", "given"):
        value = raw.get(name, [])
        if not isinstance(value, list) or not all(isinstance(w, str) and w.strip() for w in value):
            raise RecordError(f"{where}.{name}: expected a list of words")
        words[name] = tuple(w.casefold() for w in value)
    if not words["vocabulary"] or not set(words["truth"]) <= set(words["vocabulary"]):
        raise RecordError(f"{where}: expected words in vocabulary, and in truth only words of it")
    if not isinstance(raw.get("ordered", False), bool):
        raise RecordError(f"{where}.ordered: expected true or false")
    return Slot(**words, ordered=raw.get("ordered", False))


# ------------------------------------------------------------------------------------------------------------- grading


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a completion claims about one slot."""

    claimed: tuple[str, ...]
    wrong: tuple[str, ...]
    share: float | None
    """How much of the slot's truth is told, falsehoods counted against it; None where there is none to tell."""


def grade(text: str, key: AnswerKey) -> Rated:
    """The five scores of one completion, with a reason for each."""
    form = form_of(text)
    spoken = re.sub(r"(?<!\S)\d+\.(?=\s)", " ", text) if form == "list" else text
    found = [_look(spoken, slot) for slot in key.slots]
    wrong = [word for f in found for word in f.wrong]
    shares = [f.share for f in found if f.share is not None]
    share = sum(shares) / len(shares)
    fits = form is not None and (form == key.form or (key.form == "any" and form == "sentence"))
    looped = form != "list" and re.search(r"\b(\w+)(?:\W+\1\b)+", text.casefold()) is not None

    correctness = _correctness(share, bool(wrong))
    if correctness == 4:
        helpfulness = 4 if fits and not looped else 3 if key.form == "any" and form and not looped else 2
    else:  # an answer with anything false in it cannot be relied on, so its form is of no use
        helpfulness = 0 if wrong or correctness < 2 else 1 + fits
    claims_something = any(f.claimed for f in found)
    if form is None or looped:
        coherence = 1 if claims_something else 0
    else:
        coherence = 4 if fits or key.form == "any" else 2
    length = _length_score(text)
    scores = (helpfulness, correctness, coherence, length, length)
    return Rated(
        scores=dict(zip(ATTRIBUTES, scores, strict=True)),
        rationale=_rationale(found, key, form, looped, scores, len(text.split())),
    )


def quality(rated: Rated) -> int:
    """What two completions are compared by: helpfulness + correctness + coherence (section 3.2)."""
    return rated.scores["helpfulness"] + rated.scores["correctness"] + rated.scores["coherence"]


def form_of(text: str) -> str | None:
    """The form of an answer by its look: word, list, sentence, or none."""
    text = text.strip()
    if re.fullmatch(r"[^\s.]+\.?", text):
        return "word"
    numbers = [int(n) for n in re.findall(r"(?<!\S)(\d+)\.(?=\s)", text)]
    if re.fullmatch(r"\d+\.\s+\S+(?:\s+\d+\.\s+\S+)+", text) and numbers == list(range(1, len(numbers) + 1)):
        return "list"
    if len(text.split()) >= 3 and text.endswith(".") and (text[0].isupper() or text[0].isdigit()) and not numbers:
        return "sentence"
    return None


def _look(text: str, slot: Slot) -> Found:
    """Which words of the slot's vocabulary stand in the text, and how far they are the true ones."""
    longest_first = sorted(slot.vocabulary, key=lambda w: (-len(w), w))
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
    words = [w for w in pattern.findall(text.casefold()) if w in slot.truth or w not in slot.given]
    share: float | None
    if not slot.truth:
        wrong, share = words, None
    elif slot.ordered:
        right = sum(said == true for said, true in zip(words, slot.truth, strict=False))
        wrong = [w for i, w in enumerate(words) if i >= len(slot.truth) or w != slot.truth[i]]
        share = right / max(len(words), len(slot.truth))
    else:
        words = list(dict.fromkeys(words))
        wrong = [w for w in words if w not in slot.truth]
        share = max(0.0, (len(words) - 2 * len(wrong)) / len(set(slot.truth)))
    return Found(claimed=tuple(words), wrong=tuple(wrong), share=share)


def _correctness(share: float, anything_wrong: bool) -> int:
    """Quarters of the truth, rounded; only the whole truth is 4, and with a false claim it stays at 2 at most."""
    if share == 1.0 and not anything_wrong:
        return 4
    return min(2 if anything_wrong else 3, int(4 * share + 0.5))


def _length_score(text: str) -> int:
    words = len(text.split())
    return 0 if words <= 1 else 1 if words <= 5 else 2 if words <= 10 else 3


# ------------------------------------------------------------------------------------------------------------- reasons


def _reasoning(key: AnswerKey) -> str:
    truths = "; ".join(", ".join(slot.truth) for slot in key.slots if slot.truth)
    form = "no form is asked for" if key.form == "any" else f"a {key.form} is asked for"
    return f"True is: {truths}. As to form, {form}. Each completion is checked for what it claims, then for its form."


def _rationale(
    found: Sequence[Found], key: AnswerKey, form: str | None, looped: bool, scores: tuple[int, ...], n_words: int
) -> str:
    helpfulness, correctness, coherence, complexity, verbosity = scores
    claimed = ", ".join(word for f in found for word in f.claimed) or "nothing"
    wrong = ", ".join(word for f in found for word in f.wrong) or "none of it"
    shape = f"a {form}" if form else "neither a sentence, a word nor a list"
    wanted = "any form will do" if key.form == "any" else f"a {key.form} was asked for"
    truth = "true" if correctness == 4 else "not all true"
    return (
        f"Correctness {correctness}: it claims {claimed}; false is {wrong}. "
        f"Helpfulness {helpfulness}: {truth}, and it is {shape} where {wanted}. "
        f"Coherence {coherence}: it is {shape}{', and repeats itself' if looped else ''}. "
        f"Complexity {complexity} and verbosity {verbosity}: {n_words} word(s)."
    )
