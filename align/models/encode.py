"""Turns and images into what a model reads: the one place where text meets the tokenizer.

    prompt(turns, images)        -> token ids with every `<image>` widened to its image's tokens, and pixel values
    completion(turns, " answer") -> the ids that follow, end marker included

LLaVA checkpoints and text-only language models get our template (`align.models.template`), with the tokenizer's own
markers of beginning and end. A VLM of another family
gets the chat template of its own processor, as text; BOS and EOS are then whatever that template writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.models import template
from annotate.errors import UserError
from annotate.pixels import Drawn, rgb
from annotate.records import IMAGE_PLACEHOLDER, Turn

if TYPE_CHECKING:
    import torch

CACHE_BYTES = 512 * 2**20
"""What is kept in memory; beyond it the longest unused is encoded again when needed."""


@dataclass(frozen=True)
class Encoded:
    """A prompt, an image or a completion as a model reads it, ready to be padded into a batch."""

    ids: list[int]
    alongside: dict[str, list[int]] = field(default_factory=dict)
    """One value per token: what some processors return beside the ids (token types)."""
    images: dict[str, torch.Tensor] = field(default_factory=dict)
    """Per image, in the order of the placeholders: pixel values and the like; joined along the first axis."""

    @property
    def n_bytes(self) -> int:
        return 36 * len(self.ids) + sum(t.numel() * t.element_size() for t in self.images.values())


class Encoder:
    """For one model. Remembers what it has encoded, up to `CACHE_BYTES`."""

    def __init__(self, tokenizer: Any, processor: Any | None = None) -> None:
        self.tokenizer = tokenizer
        self.processor = processor
        self.own_template = processor is None or _speaks_vicuna(processor, tokenizer)
        self.bos: str = tokenizer.bos_token or ""
        self.eos: str = tokenizer.eos_token or template.EOS
        self.pad_id: int = tokenizer.pad_token_id
        self.image_id: int | None = getattr(processor, "image_token_id", None)
        self._images = _Remembered(CACHE_BYTES // 2)
        self._prompts = _Remembered(CACHE_BYTES // 4)
        self._completions = _Remembered(CACHE_BYTES // 4)

    def render(self, turns: Sequence[Turn], completion: str | None = None) -> tuple[str, str]:
        """The text of the prompt and the text of the completion after it (empty where none is given)."""
        if self.own_template:
            after = "" if completion is None else template.render_completion(completion, eos=self.eos)
            return template.render_prompt(turns, bos=self.bos, eos=self.eos), after
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

    def prompt(self, turns: Sequence[Turn], images: Sequence[Path | Drawn]) -> Encoded:
        """Ids and pixels of one prompt. Raises `UserError` unless each placeholder has its image."""
        wanted = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns)
        # The processors match images to placeholders over the whole batch: a surplus image would silently slide into
        # the next row. Hence one row at a time, and counted first.
        if wanted != len(images):
            raise UserError(f"{wanted} {IMAGE_PLACEHOLDER} placeholder(s) but {len(images)} image(s) in one prompt")
        if images and self.processor is None:
            raise UserError("a language model was given an image; only vision-language models see")
        text, _ = self.render(turns)
        if images and not self.own_template:
            return self._prompts.get((text, *images), lambda: self._process(text, images))
        seen = [self._images.get(path, partial(self._process, IMAGE_PLACEHOLDER, [path])) for path in images]
        tokens = iter([IMAGE_PLACEHOLDER * len(image.ids) for image in seen])
        widened = "".join(part + next(tokens, "") for part in text.split(IMAGE_PLACEHOLDER))
        ids = self._prompts.get(widened, lambda: Encoded(self._tokens(widened))).ids
        return Encoded(ids, images=join_images(seen))

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _process(self, text: str, images: Sequence[Path | Drawn]) -> Encoded:
        """Text and images through the model's own processor, which widens the placeholders."""
        assert self.processor is not None
        opened = [image.draw() if isinstance(image, Drawn) else rgb(image) for image in images]
        out = self.processor(text=[text], images=opened, add_special_tokens=False, return_tensors="pt")
        shape = tuple(out["input_ids"].shape)
        rest = {name: value for name, value in out.items() if name not in ("input_ids", "attention_mask")}
        return Encoded(
            out["input_ids"][0].tolist(),
            {name: value[0].tolist() for name, value in rest.items() if tuple(value.shape) == shape},
            {name: value for name, value in rest.items() if tuple(value.shape) != shape},
        )

    def image(self, path: Path) -> Encoded:
        """One image alone, as the processor makes it; not remembered."""
        return self._process(getattr(self.processor, "image_token", IMAGE_PLACEHOLDER), [path])

    def completion(self, turns: Sequence[Turn], completion: str) -> list[int]:
        """The ids after the prompt's: tokenised in context, since some tokenizers write a first word differently
        when it stands alone (Llama's adds a space).
        """
        before, after = self.render(turns, completion)
        return self._completions.get((before, after), lambda: self._after(before, after)).ids

    def _after(self, before: str, after: str) -> Encoded:
        if IMAGE_PLACEHOLDER in after:
            raise UserError(f"the completion contains {IMAGE_PLACEHOLDER}, which would be read as an image")
        before_ids, whole_ids = self._tokens(before), self._tokens(before + after)
        if whole_ids[: len(before_ids)] == before_ids:
            return Encoded(whole_ids[len(before_ids) :])
        # Some token would span both (never in our template). When it answers, the model stands at the prompt's end.
        return Encoded(self._tokens(after))

    def end_ids(self, model: Any) -> list[int]:
        """Tokens that end an answer: the tokenizer's EOS and those the checkpoint's generation config adds."""
        listed = model.generation_config.eos_token_id
        more = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
        return sorted({self.tokenizer.eos_token_id, *more} - {None})


class _Remembered:
    """What was encoded, by key: the ones used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._values: OrderedDict[Any, Encoded] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Encoded]) -> Encoded:
        """The value of `key`; made now if it is not remembered."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        made = self._values[key] = make()
        self._held += made.n_bytes
        while self._held > self._limit and len(self._values) > 1:
            self._held -= self._values.popitem(last=False)[1].n_bytes
        return made


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
    seen = [r.images for r in rows if r.images]
    return {name: _cat([images[name] for images in seen]) for name in seen[0]} if seen else {}


def _cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Joined along the first axis, filled up with zeros along the others: some families cut images into patches, more
    or fewer of them.
    """
    import torch
    from torch.nn.functional import pad

    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = []
    for part in parts:
        missing = [most - size for most, size in zip(largest, part.shape[1:], strict=True)]
        filled.append(pad(part, [n for m in reversed(missing) for n in (0, m)]))
    return torch.cat(filled)


def to_device(batch: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The batch where the model is; real numbers in the model's precision."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
    }


def _speaks_vicuna(processor: Any, tokenizer: Any) -> bool:
    """Whether the checkpoint is a LLaVA with the Vicuna template. Pixtral and others share LLaVA's class, not it."""
    if getattr(processor, "chat_template", None) == template.JINJA:
        return True
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
