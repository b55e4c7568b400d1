"""The blocks of a recipe as frozen dataclasses: one per stage, read downwards in the order in which they run.

Every field is either *identity* (a change makes the stage stale) or *operational* (rates, logging, batch size of a
service call, paths whose content is hashed instead: a change re-does nothing). `help` is the sentence that
`align STAGE --help` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


def option(
    default: Any,
    help: str,
    *,
    operational: bool = False,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
) -> Any:
    """A field with its help, whether it decides the result, and the values that make sense.

    `low` and `high` are allowed themselves, `above` is not; a tuple must not be empty. Mutable defaults are given as a
    factory.
    """
    metadata = {"help": help, "operational": operational, "low": low, "above": above, "high": high}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The images and questions to align on."""

    file: str = option("", "JSONL of prompt records, or a LLaVA-format JSON list", operational=True)
    image_root: str = option(".", "folder that image paths are relative to, and must not leave")
    format: Literal["auto", "records", "llava"] = option("auto", "how to read `file`")
    invalid: Literal["error", "skip"] = option("error", "skip: bad rows become failures instead of stopping the run")
    limit: int | None = option(None, "take the first so many prompts", low=1)
    max_image_pixels: int = option(50_000_000, "larger images are refused (decompression bombs)", low=1)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Completions of each prompt by the model (Multi-Modal Preference Alignment, section 3.1)."""

    n: int = option(4, "completions per prompt", low=1)
    temperature: float = option(0.7, "0 is greedy", low=0)
    top_p: float = option(1.0, "nucleus; 1 is off", above=0, high=1)
    max_new_tokens: int = option(1024, "limit of each completion", low=1)
    batch_size: int = option(8, "prompts per batch; batches are fixed in the plan", low=1)
    batch_tokens: int | None = option(
        None, "tokens of a batch, prompts and all they may be answered with, at most, roughly", low=1
    )
    engine: Literal["transformers", "vllm"] = option("transformers", "who generates; see docs/engines.md")
    logprobs: bool = option(
        False,
        "keep log-probabilities in logprobs.jsonl: where the sampled model is the reference of DPO it need not be run",
    )
    workers: int | None = option(
        None, "models at once; where nothing is said one per GPU, or one; on Ray two", operational=True, low=1
    )
    gpus_per_worker: int = option(1, "GPUs that one model is split over (vllm)", operational=True, low=1)
    spread: Literal["processes", "ray"] = option(
        "processes", "where the workers are: on this machine, or wherever Ray has room", operational=True
    )
    ray_address: str = option("", "of a running cluster; empty: Ray is started on this machine", operational=True)


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Extra questions, paid like any other, that tell how far the annotator's scores can be trusted."""

    duplicate: int = option(0, "prompts where one completion is shown twice: do both get the same scores?", low=0)
    wrong_image: int = option(0, "prompts rated again with another prompt's image: does correctness fall?", low=0)
    blind: int = option(0, "prompts rated again without their image: do the scores change at all?", low=0)


@dataclass(frozen=True, kw_only=True)
class Service:
    """How fast a model is asked and what it may cost: of the annotator, the teacher and the judge alike."""

    requests_per_minute: float | None = option(
        None, "pace, per key and model; where nothing is said it is learnt", operational=True, above=0
    )
    tokens_per_minute: float | None = option(None, "input tokens, per key and model", operational=True, above=0)
    requests_per_day: int | None = option(None, "per key and model", operational=True, low=1)
    wait_quota: bool = option(False, "wait for the daily quota to begin anew instead of stopping", operational=True)
    lanes: tuple[Mapping[str, Any], ...] = option(
        (),
        "several keys or endpoints at once, each with options and limits of its own: [{key_env: KEY_2}, ...]",
        operational=True,
    )
    workers: int | None = option(
        None, "requests in flight at most, over all lanes; as many as the pace needs", operational=True, low=1
    )
    attempts: int = option(6, "tries of a request that meets errors of the service", operational=True, low=1)
    budget_usd: float | None = option(None, "stop before this is passed", operational=True, low=0)
    prices: str = option("", "a price table instead of the shipped one (annotate/prices.yaml)", operational=True)


@dataclass(frozen=True, kw_only=True)
class Annotate(Service):
    """Scores for each completion from an annotator."""

    backend: str = option("rules", "a name from the entry points `mmalign.annotators`")
    model: str = option("", "the annotator's model id")
    rubric: str = option("helpsteer", "a shipped rubric's name, or the path of a rubric file")
    mode: Literal["listwise", "pointwise", "pairwise"] = option("listwise", "what one call is shown")
    passes: int = option(1, "calls per prompt, each with its own order of completions", low=1)
    checks: Checks = option(Checks, "planted questions whose right answer is known")  # noqa: RUF009
    max_output_tokens: int = option(2048, "limit of one reply", low=1)
    temperature: float = option(0.0, "of the annotator", low=0)
    options: Mapping[str, Any] = option(dict, "passed to the backend, e.g. {file: replies.jsonl} for replay")


@dataclass(frozen=True, kw_only=True)
class Teach(Service):
    """The annotator answers the prompts itself: data of the plain SFT baseline (section 3.2)."""

    backend: str = option("rules", "a name from the entry points `mmalign.annotators`")
    model: str = option("", "the annotator's model id")
    max_output_tokens: int = option(1024, "limit of one answer", low=1)
    temperature: float = option(0.0, "of the annotator", low=0)
    options: Mapping[str, Any] = option(dict, "passed to the backend")


SCORES: Mapping[str, tuple[str, ...]] = {
    "paper": ("helpfulness", "correctness", "coherence"),
    "helpfulness_correctness": ("helpfulness", "correctness"),
}
"""Names for the sums of attributes that Multi-Modal Preference Alignment, section 3.2, speaks of."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """From scores to training sets (section 3.2)."""

    sets: tuple[Literal["preference", "steerlm", "rejection", "hindsight"], ...] = option(
        ("preference", "steerlm", "rejection"), "which training sets are made; preference is always one of them"
    )
    basis: Literal["scores", "preferences"] = option(
        "scores", "preferences: pairs are what pairwise annotations, e.g. a human's, say; scores are not used"
    )
    score: tuple[str, ...] | Mapping[str, float] | Literal["paper", "helpfulness_correctness"] = option(
        SCORES["paper"],
        "attributes summed into the score: a list, weights {helpfulness: 0.65, ...}, or a name. The paper says "
        "helpfulness + correctness once and with coherence twice; its code sums all three (`paper`, 0-12)",
    )
    chosen: Literal["best"] = option("best", "which completion is chosen; with rejected: all_pairs the better of two")
    ties: Literal["random", "skip"] = option(
        "random", "several best: a seeded draw, or no pair; the first would favour a position"
    )
    rejected: Literal["random_below_margin", "worst", "all_below_margin", "all_pairs"] = option(
        "random_below_margin",
        "which completion is rejected. The paper says the worst, then a random other; its code draws among those worse "
        "by the margin. all_pairs: any two that differ by the margin",
    )
    min_margin: float = option(
        2.0,
        "score of chosen minus score of rejected, at least; the paper prints the sign reversed, its code has it so",
        low=0,
    )
    max_pairs: int | None = option(None, "pairs of one prompt at most, a seeded draw among them", low=1)
    max_length_ratio: float | None = option(
        None, "the longer text of a pair has at most so many times the characters of the shorter; 1 is equal", low=1
    )
    length_gap: tuple[int | None, ...] | Literal["balance"] | None = option(
        None,
        "[low, high]: characters of chosen minus rejected, a null end is open; balance: the end is searched for at "
        "which both sides have the same mean length over the whole set",
    )
    cut_off: Literal["keep", "drop"] = option(
        "keep",
        "completions that reached max_new_tokens: the annotator saw and scored them so; drop takes away the longest",
    )
    fraction: float = option(
        1.0,
        "about this share of the prompts, the same in all training sets: a seeded, nested draw (data-scaling curve)",
        above=0,
        high=1,
    )
    flip: float = option(0.0, "share of pairs with chosen and rejected swapped (label-noise ablation)", low=0, high=1)
    also: tuple[str, ...] = option(
        (),
        "in a recipe only: further files of preferences or ratings, in any format; their pairs join preference.jsonl. "
        "Ready pairs are taken as they are (but for fraction and flip), ratings are paired by this block's rule",
        operational=True,
    )
    steerlm: Literal["all", "best"] = option(
        "all", "which rated completions SteerLM trains on; the paper does not say: bad ones teach what the words mean"
    )
    steerlm_template: str = option(
        "\nPlease answer the question such that your response is in the following attributes in 5-point Likert "
        "scale:\n{attributes}",
        "appended to the prompt; {attributes} becomes Helpfulness:4,Correctness:4,... and {labels} "
        "helpfulness:4,correctness:4,...; `nvidia` is <extra_id_2>{labels} on a line of its own",
    )
    min_score: float | None = option(
        None, "rejection sampling keeps a best completion only from this score on; the paper names no threshold"
    )
    rejection_ties: Literal["random", "skip", "all"] = option(
        "random", "several best in rejection sampling; all with min_score at the highest: every perfect completion"
    )
    hindsight_template: str = option(
        "That answer can be improved. Please answer again, better.",
        "Chain-of-Hindsight: what the user says after the worse answer, before the better one",
    )

    def __post_init__(self) -> None:
        if isinstance(self.score, str) and self.score in SCORES:
            object.__setattr__(self, "score", SCORES[self.score])  # so that a name and what it stands for are the same
        for name in ("sets", "score", "length_gap", "also"):
            if isinstance(value := getattr(self, name), list):  # in Python [0, 10] is as good as (0, 10)
                object.__setattr__(self, name, tuple(value))


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters, on the language model only unless `target` says otherwise."""

    r: int = option(128, "rank", low=1)
    alpha: int = option(256, "scale; alpha / r multiplies the update", low=1)
    dropout: float = option(0.05, "on the adapter's input", low=0, high=1)
    target: str = option(r".*language_model.*\.(q|k|v|o|gate|up|down)_proj", "regular expression over module names")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which parts of the model learn. Multi-Modal Preference Alignment, section 3.2, speaks of LoRA alone."""

    language: Literal["lora", "full", "frozen"] = option(
        "lora", "the language model: by the adapter, whole, or not at all; without an adapter a whole model is left"
    )
    projector: Literal["frozen", "full"] = option(
        "frozen", "between tower and language model; with full its weights lie in the adapter's folder"
    )
    tower: Literal["frozen", "full"] = option("frozen", "the vision tower, likewise")
    projector_learning_rate: float | None = option(
        None, "of the projector, trl.learning_rate where left out; the paper's code has one, 2e-5", above=0
    )
    tower_learning_rate: float | None = option(None, "of the tower, likewise", above=0)


@dataclass(frozen=True, kw_only=True)
class Train:
    """One training: `dpo`, `steerlm`, `rejection` and `sft` all have this shape."""

    lora: Lora = option(Lora, "the adapter")  # noqa: RUF009
    parts: Parts = option(Parts, "what learns, and at which rate")  # noqa: RUF009
    max_length: int | None = option(
        None,
        "tokens of a row, image tokens included; longer rows are left out and listed in failures.jsonl, none is cut",
        low=1,
    )
    checkpoint_every: int = option(50, "optimizer steps between checkpoints", operational=True, low=1)
    batches: Literal["auto", "mixed", "unimodal"] = option(
        "auto",
        "unimodal: rows with images and rows of text alone never share a batch, nor a step of several processes; "
        "mixed: they come as they are drawn, so that every step learns from both. auto: mixed, but unimodal where the "
        "model is spread over processes (FSDP, ZeRO-3), which would wait for each other for ever",
    )
    order: Literal["random", "language_first", "vision_first"] = option(
        "random",
        "language_first: all steps of text alone, of all epochs, before the first with images; vision_first: the other "
        "way round. MLAN, section 6, leaves open what sequential tuning does beside mixed. They make batches unimodal",
    )
    group_by_length: bool = option(
        False,
        "batches of rows of like length, in random order: less padding, but the rows of a step are more alike",
    )
    sharing: Literal["auto", "off"] = option(
        "auto",
        "image and question are computed once for all completions of a batch that follow them, where the model allows "
        "it; off: one row per completion, as TRL does it. The result is the same but for rounding. Other stages than "
        "dpo share where batch_by is prompts",
    )
    batch_by: Literal["pairs", "prompts"] = option(
        "pairs",
        "what the trainer shuffles and counts: pairs or rows one by one; prompts: all of a prompt stay together "
        "and share its image, so that batches are cheaper and their rows more alike",
    )
    reference: Literal["cache", "live"] = option(
        "cache", "dpo: the reference's log-probabilities are computed once and kept, or anew at every step"
    )
    reference_folder: str = option(
        "", "where they are kept, e.g. shared by several runs; the stage's own folder where left out", operational=True
    )
    features: Literal["off", "cache"] = option(
        "off",
        "cache: what the frozen tower makes of each image is computed once and kept on disk, for later epochs and runs",
    )
    features_folder: str = option(
        "", "where it is kept, e.g. shared by several runs; the stage's own folder where left out", operational=True
    )
    quantize: Literal["none", "nf4"] = option(
        "none",
        "nf4: the frozen language model in 4 bits (QLoRA), a quarter of its memory; see docs/training.md",
    )
    trl: Mapping[str, Any] = option(dict, "options of TRL's trainer, checked against its own list")


@dataclass(frozen=True, kw_only=True)
class Judge(Service):
    """Who grades open answers; the same protocol, limits and accounts as the annotator."""

    backend: str = option("rules", "a name from the entry points `mmalign.annotators`")
    model: str = option("", "the judge's model id")
    options: Mapping[str, Any] = option(dict, "passed to the backend")
    repeats: int = option(
        1, "times each answer of a judged suite is judged; several tell how steady the judge is (LLaVA-Bench: 3)", low=1
    )
    prompts: str = option(
        "", "what the judge is told in the judged suites: FastChat's judge_prompts.jsonl; our own words where left out"
    )
    answer_tokens: int = option(1024, "limit of each answer in the judged suites; MT-Bench's own is 1024", low=1)
    max_output_tokens: int = option(2048, "limit of one reply of the judge", low=1)
    temperature: float = option(0.0, "of the judge", low=0)


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text benchmarks through lm-eval (`pip install 'mmalign[text]'`), on VLM, aligned models and backbone alike."""

    tasks: tuple[str, ...] = option(
        (),
        "which: ethics (all five, or ethics_cm, ...), truthfulqa_gen, truthfulqa_mc1, truthfulqa_mc2, mmlu, gsm8k, "
        "mathqa, squadv2, boolq, race, openbookqa, hellaswag",
    )
    folder: str = option(
        "",
        "<task>.jsonl or .parquet in the columns of the hub's data set, and <task>.shots.jsonl with what examples are "
        "drawn from; where left out all comes from the hub",
        operational=True,
    )
    shots: Mapping[str, int] = option(
        dict,
        "examples before each question, e.g. {gsm8k: 8}; as the papers had them: mmlu 5, gsm8k 8, mathqa 4, else 0",
    )
    ask: Literal["likelihood", "templates", "phrase"] = option(
        "likelihood",
        "likelihood: as lm-eval has each task. For boolq, race, openbookqa, hellaswag and mmlu also in words, as MLAN "
        "evaluates: by one of ten instructions (its paper), or by a fixed one with the answer begun (its code)",
    )
    limit: int | None = option(None, "first so many questions of each task (of MMLU, of each subject)", low=1)
    batch_size: int = option(8, "requests to the model at once; an option of a question is one", low=1)
    race: Literal["after_others", "alone"] = option(
        "after_others",
        "RACE asks the last question of each passage: after the passage's others and their answers, as lm-eval has it, "
        "or alone; MLAN says only that it takes the last",
    )


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Benchmarks for every model of the recipe."""

    suites: tuple[str, ...] | Literal["none"] = option(
        ("text_instructions", "text_noisy_image", "open_visual", "pope", "choice"),
        "which benchmarks; none: only those of `text`",
    )
    text: Text | None = option(None, "text benchmarks of lm-eval, beside the suites")  # noqa: RUF009
    folder: str = option("", "where the benchmark files lie, one <suite>.jsonl each", operational=True)
    files: Mapping[str, Mapping[str, str]] = option(
        dict,
        "a benchmark's own published files in place of that, by what they hold: "
        "{mt_bench: {questions: question.jsonl, references: reference_answer/gpt-4.jsonl}}; or a data set of the hub: "
        "{mme: {hub: lmms-lab/MME, split: test}} (docs/benchmarks.md)",
        operational=True,
    )
    limit: int | None = option(None, "first so many items of each suite", low=1)
    also: Mapping[str, str] = option(
        dict,
        "further models to compare, a row of the table each: {mlan: recipes/mlan/demo.yaml, other: path}; a folder, a "
        "hub name, or the recipe that trains it. Each gets the verdict of an aligned model: did its training prevent "
        "what tuning the VLM cost?",
        operational=True,
    )
    max_new_tokens: int = option(256, "limit of each answer", low=1)
    batch_size: int = option(32, "questions per batch; fixed in the plan", low=1)
    conditioning: tuple[Literal["full", "none", "brief"], ...] = option(
        ("full", "none", "brief"),
        "how SteerLM is asked: for the highest of each attribute, as any other model is, or with complexity and "
        "verbosity at half; the paper does not say which of them it reports",
    )
    judge: Judge | None = option(None, "of the judged suites; beside the others it adds a rubric score")  # noqa: RUF009
    margin: float = option(0.02, "a difference smaller than this share of the scale counts as none", low=0, high=1)

    def __post_init__(self) -> None:
        if self.suites == "none":
            object.__setattr__(self, "suites", ())


@dataclass(frozen=True, kw_only=True)
class Report:
    """One page and one table."""

    title: str = option("", "heading; the recipe's name where empty")
    cards: int = option(6, "sample cards shown", low=0)
