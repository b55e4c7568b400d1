"""Stage `language`: a Llama and its tokenizer from text dialogues alone. Conversation rows in, a model folder out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, set_seed

from align.building import LanguageSettings
from align.models.template import render
from align.models.tiny import build_language_model, build_tokenizer, save_small
from align.train.base import Progress, answer_loss, by_length, encode, fit, pad, passes
from align.train.rows import Conversation


def train_language(
    rows: Sequence[Conversation],
    settings: LanguageSettings,
    seed: int,
    workspace: Path,
    out: Path,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train on `rows`, save to `out` (safetensors, tokenizer); killed runs go on from `workspace`."""
    tokenizer = _tokenizer(rows, settings, workspace)
    set_seed(seed)
    model = build_language_model(settings, tokenizer)
    data = [encode(row, tokenizer, image_tokens=0) for row in rows]
    easy = [i for i, row in enumerate(rows) if row.level == 0]
    n_easy = min(settings.easy_steps, settings.steps) * settings.batch_size if easy else 0
    order = [easy[i] for i in passes(len(easy), n_easy, seed)]
    order += passes(len(data), settings.steps * settings.batch_size - n_easy, seed + 1)
    log = fit(
        model,
        data,
        by_length(order, [len(row["input_ids"]) for row in data], settings.batch_size, seed),
        collate=lambda batch: pad(batch, model.config.pad_token_id),
        loss=answer_loss,
        settings=settings,
        seed=seed,
        workspace=workspace,
        progress=progress,
    )
    save_small(model, out, tokenizer)
    return log


def _tokenizer(rows: Sequence[Conversation], settings: LanguageSettings, workspace: Path) -> PreTrainedTokenizerFast:
    """Learned once: a tokenizer that drifted between two runs would silently wreck the weights of the first."""
    folder = workspace / "tokenizer"
    if not (folder / "complete").exists():
        texts = (render(row.turns[:-1], row.turns[-1].text) for row in rows)
        build_tokenizer(texts, settings.vocabulary).save_pretrained(folder)
        (folder / "complete").touch()
    # Read back also when just made: what is saved of a tokenizer that was loaded differs in its config by a field.
    return PreTrainedTokenizerFast.from_pretrained(folder)
