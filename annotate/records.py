"""Everything that crosses from one stage to the next. Read this page first.

A record is a frozen struct that is one line of JSON:

    {"schema":"completion/1","id":"6f0c…","prompt_id":"91ab…","index":0,"text":"The 7 is red.", …}

`from_json` is strict: an unknown field, a missing one, a wrong type (also `4.0` or `true` for an integer) is a
`RecordError` that names the field. After it nobody checks again. Ids are hashes of content, so that the same prompt
gets the same id on every machine, whatever the file it came from is called.

    Prompt ─ sample ─> Completion ─ annotate ─> Annotated ─ pairs ─> PreferencePair, Example ─ train ─ evaluate ─> Item
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Literal

from msgspec import field

from annotate.errors import RecordError
from annotate.strict import Part as Part
from annotate.strict import Record as Record
from annotate.strict import canonical_json as canonical_json
from annotate.strict import content_id as content_id
from annotate.strict import content_sha256 as content_sha256
from annotate.strict import replace as replace
from annotate.strict import sha256_of as sha256_of

IMAGE_PLACEHOLDER = "<image>"


# --------------------------------------------------------------------------------------------------- what is asked


class Image(Part, frozen=True, kw_only=True):
    """An image by what it shows: `sha256` of the file's bytes is its identity, `path` only where to find it."""

    path: str
    """Relative to the recipe's `prompts.image_root`, with forward slashes."""
    sha256: str


class Turn(Part, frozen=True, kw_only=True):
    """One message. `text` holds one `<image>` for each of `images`, in order, where the image is to stand."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        n = self.text.count(IMAGE_PLACEHOLDER)
        if n != len(self.images):
            raise RecordError(
                f"{self.role} turn has {n} {IMAGE_PLACEHOLDER} placeholder(s) but {len(self.images)} image(s): "
                f"write one {IMAGE_PLACEHOLDER} per image into the text"
            )


class Prompt(Record, frozen=True, kw_only=True):
    """What a completion answers: turns that end with the user's. Build with `Prompt.of`, which computes the id."""

    SCHEMA: ClassVar[str] = "prompt/1"
    id: str
    turns: tuple[Turn, ...]
    source: str = ""
    """Which collection the prompt comes from; funnels are counted per source."""
    source_id: str = ""
    """The user's own id."""
    reference: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        turns = self.turns
        if len(turns) != 1 or turns[0].role != "user":  # most prompts are one question
            _check_order(turns)
        for t in turns:
            if t.role == "user" and not t.text.replace(IMAGE_PLACEHOLDER, "").strip():
                raise RecordError("a user turn has no text; write the question")
        made = self.id_of(turns)
        if self.id != made:
            raise RecordError(f"id {self.id} is not the hash of the turns ({made}); was it edited?")

    @staticmethod
    def id_of(turns: tuple[Turn, ...]) -> str:
        """Hash over roles, texts and image hashes; never over paths, source or meta."""
        global _hashed
        before, made = _hashed
        if turns is not before:  # `of` hashes, and the prompt that it makes asks for the same
            made = content_id([(t.role, t.text, [i.sha256 for i in t.images]) for t in turns])
            _hashed = turns, made
        return made

    @classmethod
    def of(cls, turns: tuple[Turn, ...], **rest: Any) -> Prompt:
        return cls(id=cls.id_of(turns), turns=turns, **rest)

    @property
    def images(self) -> tuple[Image, ...]:
        """All images, in the order of their placeholders."""
        return tuple(image for turn in self.turns for image in turn.images)


_hashed: tuple[tuple[Turn, ...] | None, str] = None, ""
"""The turns that were hashed last, and their id."""


def _check_order(turns: tuple[Turn, ...]) -> None:
    roles = [t.role for t in turns if t.role != "system"]
    if len(roles) % 2 == 0 or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        raise RecordError(f"turns must alternate user, assistant, ..., user; got {', '.join(roles) or 'none'}")
    if len(turns) - len(roles) > (turns[0].role == "system"):
        raise RecordError("a system turn may only come first")


# ------------------------------------------------------------------------------------------------ what is answered


class Completion(Record, frozen=True, kw_only=True):
    """One answer to a prompt, sampled from a model or written by a teacher."""

    SCHEMA: ClassVar[str] = "completion/1"
    id: str
    prompt_id: str
    index: int
    """Which of the n completions of this prompt, from 0."""
    text: str
    model: str
    """Digest of weights + adapter, or the teacher's model id."""
    decoding: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    finish_reason: Literal["stop", "length"] | None = None
    n_tokens: int | None = None

    @classmethod
    def of(cls, *, prompt_id: str, model: str, index: int, text: str, **rest: Any) -> Completion:
        made = content_id([prompt_id, model, index, text])
        return cls(id=made, prompt_id=prompt_id, model=model, index=index, text=text, **rest)


# --------------------------------------------------------------------------------------------------- how it is rated


class Scale(Part, frozen=True, kw_only=True):
    """The integers an attribute may take, ends included, and other names a reply may use for it."""

    low: int
    high: int
    aliases: tuple[str, ...] = ()


class Rubric(Record, frozen=True, kw_only=True):
    """What is scored. The guide itself is the file whose `sha256` this is."""

    SCHEMA: ClassVar[str] = "rubric/1"
    name: str
    sha256: str
    attributes: dict[str, Scale]

    def check(self, scores: Mapping[str, int], where: str = "scores") -> None:
        """Raise `RecordError` unless every attribute has an integer within its scale, and nothing else is scored."""
        if scores.keys() != self.attributes.keys():
            raise RecordError(f"{where}: rubric {self.name} scores {sorted(self.attributes)}, got {sorted(scores)}")
        for name, scale in self.attributes.items():
            value = scores[name]
            if type(value) is not int or value < scale.low or value > scale.high:
                raise RecordError(f"{where}.{name}: {value!r} is not an integer from {scale.low} to {scale.high}")


class Rating(Part, frozen=True, kw_only=True):
    """The scores of one completion and the annotator's reasons for them."""

    completion_id: str
    scores: dict[str, int]
    rationale: str = ""


class Annotation(Record, frozen=True, kw_only=True):
    """One call to an annotator. `ratings` covers exactly the completions of `shown_order`."""

    SCHEMA: ClassVar[str] = "annotation/1"
    id: str
    prompt_id: str
    mode: Literal["listwise", "pointwise", "pairwise"]
    pass_index: int
    shown_order: tuple[str, ...]
    """Completion ids in the order in which the annotator saw them."""
    ratings: tuple[Rating, ...]
    preference: Literal["first", "second", "tie"] | None = None
    reasoning: str = ""
    backend: str
    model: str
    model_version: str = ""
    rubric: str
    rubric_sha256: str
    request_sha256: str
    usage: dict[str, int] = field(default_factory=dict)
    cost_usd: float | None = None

    def __post_init__(self) -> None:
        shown = set(self.shown_order)
        if len(shown) != len(self.shown_order):
            raise RecordError("annotation.shown_order: a completion is listed twice")
        if self.mode == "pairwise":
            if self.preference is None or len(self.shown_order) != 2:
                raise RecordError("annotation: pairwise needs two completions and a preference")
        elif self.preference is not None:
            raise RecordError("annotation.preference: only a pairwise annotation has one")
        elif len(self.ratings) != len(shown) or {r.completion_id for r in self.ratings} != shown:
            raise RecordError(
                f"annotation.ratings: {len(self.ratings)} rating(s) for {len(self.shown_order)} completion(s); "
                "each must be rated exactly once"
            )


class Annotated(Record, frozen=True, kw_only=True):
    """A prompt with its completions and all annotations of them; what builders, doctor and agreement read."""

    SCHEMA: ClassVar[str] = "annotated/1"
    prompt: Prompt
    completions: tuple[Completion, ...]
    annotations: tuple[Annotation, ...]

    def __post_init__(self) -> None:
        ids = {c.id for c in self.completions}
        if len(ids) != len(self.completions):
            raise RecordError(f"annotated {self.prompt.id}: a completion is listed twice")
        prompt_id = self.prompt.id
        for c in self.completions:
            if c.prompt_id != prompt_id:
                raise RecordError(f"annotated {prompt_id}: completion {c.id} answers prompt {c.prompt_id}")
        for a in self.annotations:
            if a.prompt_id != prompt_id or not ids.issuperset(a.shown_order):
                raise RecordError(f"annotated {prompt_id}: annotation {a.id} rates something else")

    def scores(self) -> dict[str, dict[str, float]]:
        """Completion id -> attribute -> mean over the annotations that rated it; unrated completions are absent."""
        if len(self.annotations) == 1 and self.annotations[0].mode != "pairwise":  # each rated once: nothing to average
            once = self.annotations[0].ratings
            return {r.completion_id: {n: float(v) for n, v in r.scores.items()} for r in once if r.scores}
        gathered: dict[str, dict[str, list[int]]] = {}
        for annotation in self.annotations:
            for rating in annotation.ratings:
                for name, value in rating.scores.items():
                    gathered.setdefault(rating.completion_id, {}).setdefault(name, []).append(value)
        return {c: {n: sum(v) / len(v) for n, v in by.items()} for c, by in gathered.items()}


# --------------------------------------------------------------------------------------------- what is trained upon


class PreferencePair(Record, frozen=True, kw_only=True):
    """Two completions of one prompt, the better first. The pairs of a prompt stand on adjacent lines."""

    SCHEMA: ClassVar[str] = "preference_pair/1"
    id: str
    prompt: Prompt
    chosen: Completion
    rejected: Completion
    margin: float | None
    """Score of chosen minus score of rejected, in points of the summed attributes; None where it is not known."""
    rule: str
    evidence: tuple[str, ...] = ()
    """Ids of the annotations behind the scores."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What came along with a pair made elsewhere, such as reference log-probabilities."""

    @classmethod
    def of(cls, *, prompt: Prompt, chosen: Completion, rejected: Completion, **rest: Any) -> PreferencePair:
        made = content_id([prompt.id, chosen.id, rejected.id])
        return cls(id=made, prompt=prompt, chosen=chosen, rejected=rejected, **rest)


class Example(Record, frozen=True, kw_only=True):
    """One row of supervised fine-tuning: loss falls on `completion` alone."""

    SCHEMA: ClassVar[str] = "example/1"
    id: str
    prompt: Prompt
    completion: str
    source: str
    """Which builder made it: steerlm, rejection, teacher, instruct, ..."""
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, *, prompt: Prompt, completion: str, source: str, **rest: Any) -> Example:
        made = content_id([prompt.id, completion, source])
        return cls(id=made, prompt=prompt, completion=completion, source=source, **rest)


# ------------------------------------------------------------------------------------------------ what is measured


class Item(Record, frozen=True, kw_only=True):
    """One benchmark question answered by one model, and what a scorer made of the recorded output."""

    SCHEMA: ClassVar[str] = "item/1"
    id: str
    """The benchmark's own id of the question: models are joined on it."""
    suite: str
    model: str
    """Row of the table: backbone, vlm, dpo, ..."""
    model_sha256: str
    decoding: dict[str, Any]
    input_sha256: str
    output: str
    parser: str
    value: dict[str, float] = field(default_factory=dict)
    """Measure -> value, e.g. {"headline": 1.0, "exact": 1.0, "form": 1.0}; empty unless state is ok."""
    state: Literal["ok", "unparsed", "judge_failed"]


class Metric(Record, frozen=True, kw_only=True):
    """One cell of a table, with its 95% interval."""

    SCHEMA: ClassVar[str] = "metric/1"
    suite: str
    name: str
    model: str
    value: float | None
    """None where too little could be scored to say."""
    low: float | None
    high: float | None
    n: int
    n_failed: int
    judge: str = ""


# ------------------------------------------------------------------------------------- what went wrong, and the receipt


class Reason(Enum):
    """Why a record is missing from a stage's output."""

    INVALID_INPUT = "invalid_input"
    IMAGE_MISSING = "image_missing"
    IMAGE_UNREADABLE = "image_unreadable"
    COMPLETIONS_MISSING = "completions_missing"
    COMPLETION_EMPTY = "completion_empty"
    NOT_RECORDED = "not_recorded"
    """`replay` has no reply for this request."""
    UNPARSABLE = "unparsable"
    BLOCKED = "blocked"
    """The service refused this row (safety, recitation, row-level 400)."""
    CUT_OFF = "cut_off"
    """The reply reached its token limit before it was complete."""
    SERVICE = "service"
    """Transient errors outlasted every attempt."""
    OUT_OF_MEMORY = "out_of_memory"
    TOO_LONG = "too_long"
    UNRATED = "unrated"
    NO_MARGIN = "no_margin"
    """No two completions of the prompt differ by the wanted margin."""
    TIED = "tied"
    IDENTICAL = "identical"
    FILTERED = "filtered"
    """Left out by an option the user set (fraction, min_score, ...)."""


class Failure(Record, frozen=True, kw_only=True):
    """A record that a stage could not produce: data, never a score and never a silent drop."""

    SCHEMA: ClassVar[str] = "failure/1"
    stage: str
    record_id: str
    reason: Reason
    detail: str = ""


class Manifest(Record, frozen=True, kw_only=True):
    """The receipt of one finished stage: what went in, what came out, under which identity."""

    SCHEMA: ClassVar[str] = "manifest/1"
    stage: str
    identity_sha256: str
    identity: dict[str, Any]
    """The options and input hashes the identity is taken of, so that a stale stage can say what changed."""
    inputs: dict[str, str]
    """Name -> sha256 of everything read."""
    outputs: dict[str, str]
    """File below the stage's folder -> sha256."""
    units: int
    failures: int
    funnel: dict[str, int]
    seeds: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    cost_usd: float = 0.0
    seconds: float = 0.0
