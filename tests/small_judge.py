"""Judges for tests: real LLaVAs with random weights, whose tokenizer is at home in requests, and one that was taught.

A request is some 400 tokens to them; their window is long enough for several completions and a reply.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_llava import ask_about, save_image

from align.building import ConnectSettings, LanguageSettings
from align.models.encode import Encoded, left_pad
from align.models.load import load_vlm
from align.models.tiny import build_language_model, build_processor, build_tokenizer, build_vlm
from annotate.prompting import Rated, render_request, write_reply
from annotate.protocol import Request
from annotate.records import Completion, Image, Prompt, Turn
from annotate.rubric import load_rubric

RUBRIC = """---
name: small
attributes:
  right: {low: 0, high: 4, aliases: [correct]}
  clear: {low: 0, high: 12}
---
Say how right and how clear each completion is.
"""


def save_rubric(folder: Path) -> Path:
    """Two attributes, one of them with scores of two digits."""
    (folder / "small.md").write_text(RUBRIC)
    return folder / "small.md"


def request(
    rubric: Path,
    prompt: Prompt,
    texts: Sequence[str],
    images: Sequence[bytes] = (),
    *,
    mode: Any = "listwise",
    temperature: float = 0.0,
    room: int = 60,
    attempt: int = 0,
) -> Request:
    """What a judge is asked about completions with these texts."""
    scale, guide = load_rubric(str(rubric))
    return render_request(
        prompt,
        [Completion.of(prompt_id=prompt.id, model="vlm", index=i, text=text) for i, text in enumerate(texts)],
        scale,
        guide,
        mode=mode,
        backend="local",
        model="judge",
        decoding={"temperature": temperature, "max_output_tokens": room},
        images=images,
        pass_index=0,
        attempt=attempt,
    )


def save_small_judge(folder: Path, *, seed: int = 0, window: int = 4096, width: int = 32) -> Path:
    """A LLaVA in `folder` that has never been taught anything."""
    asked = request(save_rubric(folder.parent), ask_about(), ["It is red.", "It is blue."])
    corpus = [part.text for message in asked.messages for part in message.parts]
    corpus.append(write_reply("It is right.", [Rated(scores={"right": 4, "clear": 12})]))
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(corpus * 4, 900)
    language = build_language_model(LanguageSettings(width=width, layers=2, heads=2, init_std=0.2), tokenizer)
    build_vlm(language, ConnectSettings(), tokenizer).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return widen(folder, window)


def widen(folder: Path, window: int) -> Path:
    """Another context window for the model in `folder`: with rotary positions no weight depends on it."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = window
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def teach(folder: Path, lessons: Sequence[tuple[Request, str]], *, steps: int, seed: int = 0) -> None:
    """Train the judge in `folder` on text-only requests until it writes these replies."""
    loaded = load_vlm(folder)
    prompts, replies = [], []
    for asked, reply in lessons:
        turns = tuple(Turn(role=m.role, text="".join(p.text for p in m.parts)) for m in asked.messages)
        prompts.append(loaded.encoder.prompt(turns, ()).ids)
        replies.append(loaded.encoder.completion(turns, reply))
    torch.manual_seed(seed)
    model = loaded.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rows = [Encoded(p + r) for p, r in zip(prompts, replies, strict=True)]
    batch = left_pad(rows, loaded.encoder.pad_id)
    labels_BT = torch.full_like(batch["input_ids"], -100)
    for b, reply in enumerate(replies):
        labels_BT[b, -len(reply) :] = torch.tensor(reply)
    for _ in range(steps):
        loss = model(**batch, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)


def pictures(root: Path, n: int) -> list[tuple[Image, bytes]]:
    """Pictures of coloured noise below `root`, with their bytes."""
    images = [save_image(root, f"{i}.png", seed=i) for i in range(n)]
    return [(image, (root / image.path).read_bytes()) for image in images]
