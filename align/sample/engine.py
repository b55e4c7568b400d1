"""Answers from a model: seeded draws for sampling, greedy ones for evaluation, and likelihoods of given answers.

    generate(loaded, [Ask(key="91ab…", turns=…, images=…)], n=4, decoding=Decoding(temperature=0.7), seed=0)
      -> [[Draw(text="The 7 is red.", n_tokens=6, finish_reason="stop"), … 4], …]
    score(loaded, asks, [["yes", "no"], …])  -> log-probability of each option as the whole answer

Token t of completion k of a prompt is drawn from a generator of its own, seeded by (seed, key, k): what a prompt gets
does not depend on what else is in its batch, nor on the way in which the model is decoded (`align.sample.ways`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.models.draws import SeededDraw, seed_of
from align.models.encode import Encoded, join_images, left_pad, to_device
from align.models.load import LoadedModel
from align.sample.ways import Way, say_once, way_of
from annotate.errors import UserError
from annotate.pixels import Drawn
from annotate.records import Turn

if TYPE_CHECKING:
    from align.sample.tree import Written


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A prompt as the engine needs it; `images` in the order of their placeholders."""

    key: str
    """Seeds the draws: a prompt's id."""
    turns: tuple[Turn, ...]
    images: tuple[Path | Drawn, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the next token is chosen. Temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One answer, stripped of surrounding white space and of special tokens."""

    text: str
    n_tokens: int
    """Without the end marker."""
    finish_reason: Literal["stop", "length"]
    logps: tuple[float, ...] | None = None
    """Where asked for: log-probability of each token of the text as it is trained on, the end marker's last."""
    no_logps: str = ""
    """Why there are none, though they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The answers of one batch, n per ask."""

    draws: list[list[Draw]]
    halved: bool
    """Memory ran out and the batch was done in parts: rounding, and so a text, may differ from another run's."""


def generate(
    loaded: LoadedModel,
    asks: Sequence[Ask],
    *,
    n: int = 1,
    decoding: Decoding,
    seed: int = 0,
    logprobs: bool = False,
    way: Way | None = None,
) -> Generated:
    """`n` answers to each ask, in the order of `asks`. Prompts with and without images are run apart.

    `logprobs`: keep those of the sampled tokens, by the model's own distribution (at temperature 1). `way`: how the
    model is decoded, if not in the fastest way known to be right for it.
    """
    way = way or way_of(loaded.model)
    how = _How(decoding, way, logprobs)
    rows = [
        _Row(a, loaded.encoder.prompt(a.turns, a.images), tuple(seed_of(f"{seed}/{a.key}/{k}") for k in range(n)))
        for a in asks
    ]
    draws: dict[int, list[Draw]] = {}
    halved = False
    for with_images in (True, False):
        chosen = [i for i, row in enumerate(rows) if bool(row.prompt.images) == with_images]
        if chosen:
            answers, split = _decode(loaded, [rows[i] for i in chosen], how)
            draws.update(zip(chosen, answers, strict=True))
            halved = halved or split
    return Generated(draws=[draws[i] for i in range(len(rows))], halved=halved)


@dataclass(frozen=True)
class _How:
    decoding: Decoding
    way: Way
    logprobs: bool


@dataclass(frozen=True)
class _Row:
    ask: Ask
    prompt: Encoded
    seeds: tuple[int, ...]
    """One per completion."""


def out_of_memory(error: BaseException) -> bool:
    """Whether this is torch's way to say that a GPU's memory, or this machine's, is used up."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _decode(loaded: LoadedModel, rows: Sequence[_Row], how: _How) -> tuple[list[list[Draw]], bool]:
    """All completions of all rows; where memory runs out in two halves, down to one completion of one prompt."""
    import torch

    try:
        return _decode_once(loaded, rows, how), False
    except RuntimeError as error:
        if not out_of_memory(error) or (len(rows) == 1 and len(rows[0].seeds) == 1):
            raise
    # Outside the handler: its traceback would keep the failed batch's tensors alive.
    torch.cuda.empty_cache()
    if len(rows) > 1:
        middle = len(rows) // 2
        first, second = (_decode(loaded, part, how)[0] for part in (rows[:middle], rows[middle:]))
        return first + second, True
    (row,) = rows
    middle = len(row.seeds) // 2
    parts = [_Row(row.ask, row.prompt, seeds) for seeds in (row.seeds[:middle], row.seeds[middle:])]
    first, second = (_decode(loaded, [part], how)[0] for part in parts)
    return [first[0] + second[0]], True


def _decode_once(loaded: LoadedModel, rows: Sequence[_Row], how: _How) -> list[list[Draw]]:
    decoding, way, encoder = how.decoding, how.way, loaded.encoder
    if way == "generate":
        say_once(type(loaded.model).__name__)
        return _by_generate(loaded, rows, how)
    from align.sample.tree import Writing, decode

    n = len(rows[0].seeds)
    batch = to_device(left_pad([r.prompt for r in rows], encoder.pad_id), loaded.model)
    writing = Writing(
        limit=decoding.max_new_tokens,
        ends=frozenset(encoder.end_ids(loaded.model)),
        pad_id=encoder.pad_id,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        end_id=loaded.tokenizer.eos_token_id if how.logprobs else None,
    )
    one = decoding.temperature == 0  # greedy completions are all the same
    written = decode(loaded.model, batch, [r.seeds[:1] if one else r.seeds for r in rows], writing, way)
    drawn = []
    for row, completions in zip(rows, written, strict=True):
        draws = [_draw(c.ids, c.stopped, loaded.tokenizer) for c in completions]
        if how.logprobs:
            draws = [_with_logps(d, c, row.ask, loaded) for d, c in zip(draws, completions, strict=True)]
        drawn.append(draws * (n if one else 1))
    return drawn


def _with_logps(draw: Draw, written: Written, ask: Ask, loaded: LoadedModel) -> Draw:
    """The log-probabilities, where the text is read again as the tokens that were sampled: else they are another's."""
    try:
        again = loaded.encoder.completion(ask.turns, draw.text)
    except UserError as error:
        return replace(draw, no_logps=str(error))
    if again != [*written.ids, loaded.tokenizer.eos_token_id]:
        return replace(draw, no_logps="its text, read again, has other tokens than were sampled")
    return replace(draw, logps=tuple(written.logps))


def _by_generate(loaded: LoadedModel, rows: Sequence[_Row], how: _How) -> list[list[Draw]]:
    """By the `generate` of transformers, which reads a prompt for each of its completions: right for any family."""
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    decoding, n = how.decoding, len(rows[0].seeds)
    batch = to_device(left_pad([r.prompt for r in rows], loaded.encoder.pad_id), loaded.model)
    ends = loaded.encoder.end_ids(loaded.model)
    sampled = decoding.temperature > 0
    # Every option that could bend the distribution is named: the checkpoint's own defaults fill what is left out.
    unbent = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0} if sampled else {}
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=sampled,
        num_return_sequences=n if sampled else 1,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=loaded.encoder.pad_id,
        eos_token_id=ends,
        **unbent,
    )
    processors: Any = LogitsProcessorList()
    if sampled:
        processors.append(SeededDraw([s for r in rows for s in r.seeds], decoding.temperature, decoding.top_p))
    with torch.inference_mode():
        out_BT = loaded.model.generate(**batch, generation_config=config, logits_processor=processors)
    draws = []
    for ids in out_BT[:, batch["input_ids"].shape[1] :].tolist():
        stop = next((i for i, token in enumerate(ids) if token in ends), None)
        draw = _draw(ids[:stop], stop is not None, loaded.tokenizer)
        draws.append(replace(draw, no_logps="`generate` does not keep them") if how.logprobs else draw)
    return [draws[i * n : (i + 1) * n] for i in range(len(rows))] if sampled else [[draw] * n for draw in draws]


def _draw(ids: list[int], stopped: bool, tokenizer: Any) -> Draw:
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    return Draw(text=text, n_tokens=len(ids), finish_reason="stop" if stopped else "length")


def score(loaded: LoadedModel, asks: Sequence[Ask], options: Sequence[Sequence[str]]) -> list[list[float]]:
    """For each ask the log-probability of each of its options as the whole answer, end marker included."""
    import torch

    rows, after = [], []
    for ask, texts in zip(asks, options, strict=True):
        prompt = loaded.encoder.prompt(ask.turns, ask.images)
        for text in texts:
            ids = loaded.encoder.completion(ask.turns, text)
            rows.append(prompt)
            after.append(ids)
    if not rows:
        raise UserError("nothing to score: no options were given")
    totals = [0.0] * len(rows)
    for with_images in (True, False):
        chosen = [i for i, row in enumerate(rows) if bool(row.images) == with_images]
        if chosen:
            with torch.inference_mode():
                found = _log_probability(loaded, [rows[i] for i in chosen], [after[i] for i in chosen])
            for i, value in zip(chosen, found, strict=True):
                totals[i] = value
    ends = iter(totals)
    return [[next(ends) for _ in texts] for texts in options]


def _log_probability(loaded: LoadedModel, prompts: Sequence[Encoded], after: Sequence[list[int]]) -> list[float]:
    import torch

    whole = [
        Encoded(p.ids + ids, {name: v + [0] * len(ids) for name, v in p.alongside.items()})
        for p, ids in zip(prompts, after, strict=True)
    ]
    batch = left_pad(whole, loaded.encoder.pad_id) | join_images(prompts)
    if loaded.encoder.own_template:  # other families count positions in ways of their own
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    longest = max(len(ids) for ids in after)
    moved = to_device(batch, loaded.model)
    logits_BTV = loaded.model(**moved, logits_to_keep=longest + 1, use_cache=False).logits.float()
    logps_BTV = logits_BTV[:, :-1].log_softmax(dim=-1)
    return [
        logps_BTV[b, longest - len(ids) :].gather(1, torch.tensor(ids, device=logps_BTV.device)[:, None]).sum().item()
        for b, ids in enumerate(after)
    ]
