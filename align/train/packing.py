"""Rows that begin alike, computed as one: image and question once, every completion of theirs after it.

    <s> USER: <image>… Which digit is blue? ASSISTANT:   The 4 is blue.</s>       one packed row instead of two:
    <s> USER: <image>… Which digit is blue? ASSISTANT:   No</s>
                                                         [<s> USER: … ASSISTANT | : The 4 is blue. | : No]
    positions                                             0 1 …            p-1    p  p+1 …          p  p+1
    segment                                               0 0 …              0    1  1   …          2  2

A token sees the tokens of segment 0 and of its own that are not behind it, so that each completion sees what it would
see alone. The last shared token stands in every branch: its output predicts the branch's first trained token. Fields
per token are put back to where they would be in the unpacked batch, and the loss above never knows.

`pack` runs on the CPU, in the collator; `share_prefixes` makes a model with TRL's fused head understand its result.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IGNORED = -100
FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""Per token, of TRL's fused head."""

FAMILIES = ("llava", "llava_next")
LANGUAGE_MODELS = ("llama",)
"""What is tested to be equal. Others have windows, 3D positions or masks of their own."""
LENGTH_BOUND = ("dynamic", "longrope")

ATTENTION = "sdpa_packed"
"""What transformers calls `attend`; without a prefix it is its own SDPA."""


@dataclass(frozen=True)
class PackRow:
    """One row of the batch as it would be without sharing."""

    ids: tuple[int, ...]
    start: int
    """The first token that is trained."""
    images: tuple[int, ...] = ()
    """Which of the batch's images it shows, in the order of their placeholders."""


@dataclass
class _Packed:
    """One packed row while it is laid out."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    labels: list[int]
    images: tuple[int, ...]


def pack(
    rows: Sequence[PackRow], *, pad_id: int, image_id: int | None, together: Sequence[Hashable] | None = None
) -> dict[str, Any]:
    """The packed batch, and where each row's tokens are in it. Equal rows are computed once.

    Rows are packed together that have one prompt and its images, or, where given, one value in `together` and the same
    images: then as much as they have in common before the first trained token is shared.
    """
    width = max(len(row.ids) for row in rows)
    packed: list[_Packed] = []
    prefixes: list[int] = []
    places: dict[int, tuple[int, int]] = {}  # row -> packed row, and where there its token `start - 1` stands
    for members in _groups(rows, together, image_id):
        shared = _shared([rows[n] for n in members])
        prefixes.append(shared)
        first = rows[members[0]]
        line = _Packed(list(first.ids[:shared]), list(range(shared)), [0] * shared, [IGNORED] * shared, first.images)
        laid: dict[tuple[tuple[int, ...], int], int] = {}
        for n in members:
            row = rows[n]
            key = (row.ids, row.start)
            if key not in laid:
                laid[key] = len(line.ids) + row.start - 1 - shared
                _branch(line, row, shared, segment=len(laid))
            places[n] = (len(packed), laid[key])
        packed.append(line)
    longest = max(len(line.ids) for line in packed)
    gather = torch.full((len(rows), width - 1), -1)
    for n, (line_number, at) in places.items():
        row, begin = rows[n], line_number * longest + at
        trained = len(row.ids) - row.start
        gather[n, row.start - 1 : len(row.ids) - 1] = torch.arange(begin, begin + trained)
    return {
        "input_ids": _padded([line.ids for line in packed], longest, pad_id),
        "position_ids": _padded([line.positions for line in packed], longest, 0),
        "segments": _padded([line.segments for line in packed], longest, -1),
        "labels": _padded([line.labels for line in packed], longest, IGNORED),
        "gather": gather,
        # plain numbers: they stay on the CPU, so that nothing waits for a GPU to tell them
        "prefix": min(prefixes),
        "images": [image for line in packed for image in line.images],
        "images_of_rows": [image for row in rows for image in row.images],
        "n_image_tokens": sum(line.ids.count(image_id) for line in packed) if image_id is not None else 0,
    }


def _groups(rows: Sequence[PackRow], together: Sequence[Hashable] | None, image_id: int | None) -> list[list[int]]:
    """Numbers of the rows that make one packed row, in the order of their first."""
    groups: dict[Hashable, list[int]] = {}
    for n, row in enumerate(rows):
        key = row.ids[: row.start] if together is None else together[n]
        groups.setdefault((key, row.images), []).append(n)
    found: list[list[int]] = []
    for members in groups.values():
        shared = _shared([rows[n] for n in members])
        if any(image_id in rows[n].ids[shared:] for n in members):
            # an image in a branch would have to be there once per branch
            alone: dict[PackRow, list[int]] = {}
            for n in members:
                alone.setdefault(rows[n], []).append(n)
            found += alone.values()
        else:
            found.append(members)
    return found


def _shared(rows: Sequence[PackRow]) -> int:
    """How many first tokens of the rows are the same and predict nothing that is trained."""
    most = min(row.start for row in rows) - 1
    first = rows[0].ids
    for row in rows[1:]:
        if row.ids[:most] != first[:most]:
            most = next(i for i in range(most) if row.ids[i] != first[i])
    return most


def _branch(line: _Packed, row: PackRow, shared: int, *, segment: int) -> None:
    """Append what follows the shared tokens; the row's last token predicts nothing and is left out."""
    end = len(row.ids) - 1
    line.ids += row.ids[shared:end]
    line.positions += range(shared, end)
    line.segments += [segment] * (end - shared)
    line.labels += [row.ids[i + 1] if i + 1 >= row.start else IGNORED for i in range(shared, end)]


def _padded(lines: Sequence[list[int]], width: int, filler: int) -> torch.Tensor:
    return torch.tensor([line + [filler] * (width - len(line)) for line in lines])


def visible(segments: torch.Tensor, prefix: int = 0) -> torch.Tensor:
    """Which token sees which: a bool mask [rows, 1, query, key], of the queries from `prefix` on."""
    width = segments.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    key, query = segments[:, None, :], segments[:, prefix:, None]
    return (((key == 0) | (key == query)) & earlier[prefix:])[:, None]


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    prefix: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA of transformers, without a mask for the first `prefix` tokens of every row, which are simply causal."""
    if not prefix:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    first = (x[:, :, :prefix] for x in (query, key, value))
    shared, _ = sdpa_attention_forward(module, *first, attention_mask=None, **kwargs, is_causal=True)
    branches, _ = sdpa_attention_forward(module, query[:, :, prefix:], key, value, attention_mask, **kwargs)
    return torch.cat([shared, branches], dim=1), None


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def why_not_shared(model: Any) -> str:
    """Why this model keeps TRL's layout, one row per completion; empty where prefixes can be shared."""
    text = model.config.get_text_config()
    if unlike := why_unlike(model.config):
        return unlike
    if text._attn_implementation not in ("sdpa", ATTENTION):
        return f"attention {text._attn_implementation} does not take the mask of a packed row; sdpa does"
    return ""


def why_unlike(config: Any) -> str:
    """Why models of this configuration are not known to be equal; empty where they are."""
    text = config.get_text_config()
    if config.model_type not in FAMILIES:
        return f"models of type {config.model_type} are not among {', '.join(FAMILIES)}"
    if text.model_type not in LANGUAGE_MODELS:
        return f"language models of type {text.model_type} are not among {', '.join(LANGUAGE_MODELS)}"
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in LENGTH_BOUND:
        return f"its positions ({rope}) depend on how long a row is"
    return ""


def share_prefixes(model: Any) -> None:
    """Let a model that has TRL's fused head take `packed=`, the result of `pack`, beside its other inputs.

    `pixel_values` and what goes with them are then those of each image once. Calls without it go on as before.
    """
    if "shift_labels" not in model.forward.__func__.__code__.co_varnames:
        raise RuntimeError("this TRL's fused head takes no shift_labels; prefixes cannot be shared with it")
    fused = model.forward
    seen = _Seen()
    model.config.get_text_config()._attn_implementation = ATTENTION

    @functools.wraps(type(model).forward)
    def forward(*args: Any, packed: dict[str, Any] | None = None, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if packed is None:
            return fused(*args, fused_lm_head=fused_lm_head, **kwargs)
        images: dict[str, Any] = {name: kwargs.pop(name) for name in ("pixel_values", "image_sizes") if name in kwargs}
        if not fused_lm_head:  # logits of the unpacked rows, as `compute_metrics` wants them
            rows = torch.tensor(packed["images_of_rows"], dtype=torch.long)
            repeated = {name: value[rows.to(value.device)] for name, value in images.items()}
            return fused(*args, **kwargs, **repeated)
        out = fused(
            inputs_embeds=_embeddings(model, packed, seen.features(model, images) if images else []),
            attention_mask=visible(packed["segments"], packed["prefix"]),
            prefix=packed["prefix"],
            position_ids=packed["position_ids"],
            shift_labels=packed["labels"],
            fused_lm_head=True,
        )
        return _unpacked(out, packed["gather"], kwargs.get("num_items_in_batch"))

    model.forward = forward


class _Seen:
    """The features of the images seen last: the reference asks about the same ones as the policy."""

    def __init__(self) -> None:
        self._pixels: torch.Tensor | None = None
        self._features: list[torch.Tensor] = []

    def features(self, model: Any, images: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """One tensor [tokens, width] per image."""
        if self._pixels is images["pixel_values"]:
            return self._features
        features = list(model.get_image_features(**images, return_dict=True).pooler_output)
        learns = any(p.requires_grad for name, p in model.named_parameters() if "language_model" not in name)
        self._pixels, self._features = (None, []) if learns else (images["pixel_values"], features)
        return features


def _embeddings(model: Any, packed: dict[str, Any], features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Token embeddings of the packed rows, those of the images in their places."""
    ids = packed["input_ids"]
    embedded: torch.Tensor = model.get_input_embeddings()(ids)
    if not packed["images"]:
        return embedded
    shown = torch.cat([features[i] for i in packed["images"]])
    if shown.shape[0] != packed["n_image_tokens"]:
        raise ValueError(
            f"Image features and image tokens do not match: {shown.shape[0]} features, "
            f"{packed['n_image_tokens']} tokens"
        )
    at_images = (ids == model.config.image_token_id)[..., None]
    return embedded.masked_scatter(at_images, shown.to(embedded))


def _unpacked(out: Any, gather: torch.Tensor, n_items: Any) -> Any:
    """The fused head's output as it would be without sharing: [rows, width - 1], zero where nothing is trained."""
    trained = gather >= 0
    index = gather.clamp(min=0)
    for name in FIELDS:
        value = getattr(out, name)
        if value is not None:
            out[name] = value.flatten()[index].masked_fill(~trained, 0)
    out["label_mask"] = trained
    out["loss"] = -out.log_probs.sum() / (trained.sum().clamp(min=1) if n_items is None else n_items)
    return out


def score_trained_tokens_alone(model: Any) -> None:
    """Let TRL's fused head score the tokens that have labels, and no others; on a CPU it would score all of them.

    For sums over tokens, as the loss of SFT and its measures are: what comes out is one row of the scored tokens.
    """
    fused = model.forward
    wanted: list[torch.Tensor] = []

    def select(module: Any, given: Any, out: Any) -> Any:
        if wanted:
            out.last_hidden_state = out.last_hidden_state[:, :-1][wanted.pop()][None]
        return out

    @functools.wraps(type(model).forward)
    def forward(*args: Any, labels: Any = None, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None:
            return fused(*args, labels=labels, fused_lm_head=fused_lm_head, **kwargs)
        trained = labels[:, 1:] != IGNORED
        wanted.append(trained)
        return fused(*args, shift_labels=labels[:, 1:][trained][None], fused_lm_head=True, **kwargs)

    model.base_model.register_forward_hook(select)
    model.forward = forward
