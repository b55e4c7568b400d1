"""The rows of the table: the language model before visual tuning, the model after it, and what alignment made of it.

Before the VLM stand the copies that `instruct.snapshots` kept on the way to it (`step-500`), after it the further
models of `evaluate.also`, tuned otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.benchmarks.suite import Suite
from align.context import Context
from align.digest import model_digest
from align.pairs.steerlm import conditioning
from align.settings import Evaluate, Pairs, Train
from annotate.records import sha256_of

if TYPE_CHECKING:
    from align.models.load import LoadedModel

BACKBONE, VLM = "backbone", "vlm"
ALIGNED = ("sft", "steerlm", "rejection", "dpo")
"""In the order of the paper's Table 2."""
CONDITIONING = "conditioning.txt"
NAMES = {"full": "{}", "none": "{}_unprompted", "brief": "{}_brief"}
"""What the row of a model is called that is asked with its conditioning text, without it, and for a brief answer."""
WORDY = ("complexity", "verbosity")


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One row of the table."""

    name: str
    sha256: str
    """Digest of weights and adapter."""
    folder: Path
    adapter: Path | None = None
    conditioning: str = ""
    """Appended to the last user turn: SteerLM is asked for the attributes it was trained on."""
    sees: bool = True
    further: str = ""
    """Of a model that this recipe does not make: where it is from, in words."""
    trajectory: bool = False
    """A copy kept on the way: it has scores and intervals, and no verdict, since nobody asks which step repairs."""

    def takes(self, suite: Suite) -> bool:
        """A language model alone can be shown no images."""
        return self.sees or suite.images == "none"

    def load(self) -> LoadedModel:
        from align.models.load import load_language_model, load_vlm

        return load_vlm(self.folder, adapter=self.adapter) if self.sees else load_language_model(self.folder)


def template_warnings(contestants: Sequence[Contestant]) -> list[str]:
    """Where the two models of a verdict are not asked in the same bytes."""
    kinds = {c.name: _config(c.folder) for c in contestants if c.name in (BACKBONE, VLM)}
    kind = kinds.get(VLM, {}).get("model_type", "llava")
    if BACKBONE not in kinds or kind == "llava":
        return []
    return [
        f"the VLM ({kind}) is asked in the chat template of its own processor, the language backbone in LLaVA's: part "
        "of the difference between them may be the template's"
    ]


def contestants(context: Context) -> tuple[Contestant, ...]:
    """All models of the recipe, in the order of the table."""
    found: list[Contestant] = []
    if context.backbone is not None:
        folder = context.backbone
        found.append(Contestant(name=BACKBONE, sha256=model_digest(folder), folder=folder, sees=False))
    found += _on_the_way(context)
    found.append(Contestant(name=VLM, sha256=context.model_sha256, folder=context.model))
    for name, model in context.also.items():
        sees = "vision_config" in _config(model.path)
        found.append(Contestant(name=name, sha256=model.sha256, folder=model.path, sees=sees, further=model.note))
    for method in ALIGNED:
        if context.has(method):
            folder, adapter, sha256 = _trained(context, method)
            found += [
                Contestant(name=name, sha256=sha256, folder=folder, adapter=adapter, conditioning=conditioning)
                for name, conditioning in _ways_to_ask(context, method, (adapter or folder).parent).items()
            ]
    return tuple(found)


def _on_the_way(context: Context) -> Iterator[Contestant]:
    """The copies that stage `instruct` kept, in the order of their steps."""
    kept = context.path("instruct", "snapshots").glob("step-*") if context.has("instruct") else ()
    for step in sorted(kept, key=lambda folder: int(folder.name.removeprefix("step-"))):
        if (model := step / "model").is_dir():
            yield Contestant(name=step.name, sha256=model_digest(model), folder=model, trajectory=True)
        else:
            sha256 = sha256_of([context.start_sha256, model_digest(step / "adapter")])
            yield Contestant(
                name=step.name, sha256=sha256, folder=context.start, adapter=step / "adapter", trajectory=True
            )


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _trained(context: Context, method: str) -> tuple[Path, Path | None, str]:
    """Where the weights are, the adapter on them, and the digest of both."""
    train: Train = context.recipe.block(method) or Train()
    if train.parts.language != "lora":
        folder = context.path(method, "model")
        return folder, None, model_digest(folder)
    adapter = context.path(method, "adapter")
    return context.model, adapter, sha256_of([context.model_sha256, model_digest(adapter)])


def read_conditioning(file: Path) -> str:
    """The text a method was trained to be asked with; empty for a method that left none."""
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _ways_to_ask(context: Context, method: str, folder: Path) -> dict[str, str]:
    """Row of the table -> the text appended to its questions.

    Multi-Modal Preference Alignment, section 3.2, asks SteerLM for the highest of every attribute. Its code also asks
    without the text, and for answers that are short and plain; which of them Table 2 reports is not said.
    """
    full = read_conditioning(folder / CONDITIONING)
    if not full:
        return {method: ""}
    ways = {"full": full, "none": "", "brief": _brief(context)}
    wanted = (context.recipe.evaluate or Evaluate()).conditioning
    return {NAMES[way].format(method): text for way in wanted if (text := ways[way]) is not None}


def _brief(context: Context) -> str | None:
    """The text with complexity and verbosity at half; None where the rubric scores neither, or is not known."""
    file = context.path("pairs", "conditioning.json")
    if not context.has("pairs") or not file.is_file():
        return None
    highest = json.loads(file.read_text(encoding="utf-8"))["attributes"]
    if not highest.keys() & set(WORDY):
        return None
    halved = {name: high // 2 if name in WORDY else high for name, high in highest.items()}
    return conditioning(halved, context.recipe.pairs or Pairs())
