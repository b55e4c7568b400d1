"""Turns and images into what a model reads: the one place where text meets the tokenizer.

    prompt(turns, images)        -> token ids with every `<image>` widened to its image's tokens, and pixel values
    completion(turns, " answer") -> the ids that follow, end marker included

LLaVA checkpoints and text-only language models get our template (`align.models.template`). A VLM of another family
gets the chat template of its own processor, as text; BOS and EOS are then whatever that template writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.models import template
from annotate.errors import UserError
from annotate.records import IMAGE_PLACEHOLDER, Turn

if TYPE_CHECKING:
    import torch

CACHE_BYTES = 512 * 2**20
"""Encoded prompts kept in memory; beyond it the oldest are encoded again when needed."""


@dataclass(frozen=True)
class Encoded:
    """One prompt, ready to be padded into a batch."""

    ids: list[int]
    alongside: dict[str, list[int]] = field(default_factory=dict)
    """One value per token: what some processors return beside the ids (token types)."""
    images: dict[str, torch.Tensor] = field(default_factory=dict)
    """Per image, in the order of the placeholders: pixel values and the like; joined along the first axis."""

    @property
    def n_bytes(self) -> int:
        return 8 * len(self.ids) + sum(t.numel() * t.element_size() for t in self.images.values())


class Encoder:
    """For one model. Remembers the prompts it has encoded, up to `CACHE_BYTES`."""

    def __init__(self, tokenizer: Any, processor: Any | None = None) -> None:
        self.tokenizer = tokenizer
        self.processor = processor
        self.own_template = processor is None or _speaks_vicuna(processor, tokenizer)
        self.pad_id: int = tokenizer.pad_token_id
        self._cache: OrderedDict[Any, Encoded] = OrderedDict()
        self._cached_bytes = 0

    def render(self, turns: Sequence[Turn], completion: str | None = None) -> tuple[str, str]:
        """The text of the prompt and the text of the completion after it (empty where none is given)."""
        if self.own_template:
            after = "" if completion is None else template.render_completion(completion)
            return template.render_prompt(turns), after
        messages = [{"role": t.role, "content": _content_blocks(t)} for t in turns]
        before = self._chat(messages, add_generation_prompt=True)
        if completion is None:
            return before, ""
        answer = {"role": "assistant", "content": [{"type": "text", "text": completion}]}
        whole = self._chat([*messages, answer], add_generation_prompt=False)
        if not whole.startswith(before):
            raise UserError(
                f"the chat template of {type(self.processor).__name__} writes a prompt that is not the beginning of "
                "prompt + answer; such a model cannot be trained here"
            )
        return before, whole[len(before) :]

    def _chat(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> str:
        assert self.processor is not None
        text: str = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def prompt(self, turns: Sequence[Turn], images: Sequence[Path]) -> Encoded:
        """Ids and pixels of one prompt. Raises `UserError` unless each placeholder has its image."""
        text, _ = self.render(turns)
        key = (text, tuple(images))
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        made = self._encode(turns, text, images)
        self._cache[key] = made
        self._cached_bytes += made.n_bytes
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].n_bytes
        return made

    def _encode(self, turns: Sequence[Turn], text: str, images: Sequence[Path]) -> Encoded:
        wanted = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
        # The processors match images to placeholders over the whole batch: a surplus image would silently slide into
        # the next row. Hence one row at a time, and counted first.
        if wanted != len(images):
            raise UserError(f"{wanted} {IMAGE_PLACEHOLDER} placeholder(s) but {len(images)} image(s) in one prompt")
        if not images:
            return Encoded(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if self.processor is None:
            raise UserError("a language model was given an image; only vision-language models see")
        out = self.processor(
            text=[text], images=[_open(p) for p in images], add_special_tokens=False, return_tensors="pt"
        )
        n_tokens = out["input_ids"].shape[1]
        alongside: dict[str, list[int]] = {}
        tensors: dict[str, torch.Tensor] = {}
        for name, value in out.items():
            if name in ("input_ids", "attention_mask"):
                continue
            if tuple(value.shape) == (1, n_tokens):
                alongside[name] = value[0].tolist()
            else:
                tensors[name] = value
        return Encoded(out["input_ids"][0].tolist(), alongside, tensors)

    def completion(self, turns: Sequence[Turn], completion: str) -> list[int]:
        """The ids after the prompt's: tokenised in context, since some tokenizers write a first word differently
        when it stands alone (Llama's adds a space). Raises `UserError` where the two cannot be told apart.
        """
        if IMAGE_PLACEHOLDER in completion:
            raise UserError(f"the completion contains {IMAGE_PLACEHOLDER}, which would be read as an image")
        before, after = self.render(turns, completion)
        before_ids = self.tokenizer(before, add_special_tokens=False)["input_ids"]
        whole_ids: list[int] = self.tokenizer(before + after, add_special_tokens=False)["input_ids"]
        if whole_ids[: len(before_ids)] != before_ids:
            raise UserError("the tokenizer joins the end of the prompt with the beginning of the completion")
        return whole_ids[len(before_ids) :]

    def end_ids(self, model: Any) -> list[int]:
        """Tokens that end an answer: the tokenizer's EOS and those the checkpoint's generation config adds."""
        listed = model.generation_config.eos_token_id
        more = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
        return sorted({self.tokenizer.eos_token_id, *more} - {None})


def left_pad(rows: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch for generation: every row ends at the same place."""
    import torch

    width = max(len(r.ids) for r in rows)
    ids, mask = torch.full((len(rows), width), pad_id), torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, width - len(row.ids) :] = torch.tensor(row.ids)
        mask[b, width - len(row.ids) :] = 1
    batch = {"input_ids": ids, "attention_mask": mask, **join_images(rows)}
    for name in {name for r in rows for name in r.alongside}:
        batch[name] = torch.tensor([[0] * (width - len(r.ids)) + r.alongside[name] for r in rows])
    return batch


def join_images(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Pixel values of all rows, in the order in which their placeholders stand in the batch; none: nothing."""
    import torch

    seen = [r.images for r in rows if r.images]
    return {name: torch.cat([images[name] for images in seen]) for name in seen[0]} if seen else {}


def to_device(batch: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The batch where the model is; real numbers in the model's precision."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }


def _speaks_vicuna(processor: Any, tokenizer: Any) -> bool:
    """Whether the checkpoint is a LLaVA with the Vicuna template. Pixtral and others share LLaVA's class, not it."""
    own = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None) or ""
    if type(processor).__name__ != "LlavaProcessor":
        return False
    marked = tokenizer.bos_token == template.BOS and tokenizer.eos_token == template.EOS
    return marked and (not own or "ASSISTANT:" in str(own))


def _content_blocks(turn: Turn) -> list[dict[str, str]]:
    """A turn as the processors' chat templates want it: texts and images in order."""
    blocks: list[dict[str, str]] = []
    for i, text in enumerate(turn.text.split(IMAGE_PLACEHOLDER)):
        if i:
            blocks.append({"type": "image"})
        if text:
            blocks.append({"type": "text", "text": text})
    return blocks


def _open(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")
