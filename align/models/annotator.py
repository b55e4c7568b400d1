"""`local`: a vision-language model on this machine as annotator, judge or teacher. Free, without a network.

    annotate: {backend: local, model: models/llava-critic-7b-hf, mode: pointwise, max_output_tokens: 512,
               options: {batch_size: 8}}

`model` is a folder in Hugging Face layout, or a hub name that is already on this machine. Any family will do that
transformers loads as image-text-to-text with a chat template; LLaVA-1.5 checkpoints are spoken to in our template.
Temperature 0 is greedy; above it, draws are seeded by the request's own hash. Options:

    batch_size  requests run together (4)            device    auto, cpu, cuda, or spread: over all GPUs
    quantize    4bit: a quarter of the memory        dtype     auto (bfloat16 on a GPU), float32, bfloat16, float16
    template    auto, vicuna or processor            scaffold  for judges too small to keep to a form: see `pens.py`
    quiet_ms    how long to wait for batch mates

Torch is loaded with the model, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from align.digest import model_digest
from align.models.digest import TEMPLATE_SHA256
from align.models.gather import Gather
from align.models.judge import JudgeSettings, Say
from align.models.load import check_folder
from annotate.errors import UserError
from annotate.protocol import Reply, Request, Traits

if TYPE_CHECKING:
    from align.models.judge import Judge

ROUND = 4
"""Batches gathered at once: enough to put like with like, and to have the next at hand."""


class LocalAnnotator:
    """One model, in one thread."""

    paid = False

    def __init__(
        self,
        *,
        model: str,
        batch_size: int = 4,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str = "",
        template: str = "auto",
        scaffold: bool = False,
        quiet_ms: float = 20.0,
    ) -> None:
        """Raises `UserError` for an option that cannot be; whether the model is there is for `check` to say."""
        self.found = FoundModel(model)
        self.model = self.found.name
        self.settings = judge_settings(
            self.found,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            quantize=quantize,
            template=template,
            scaffold=scaffold,
        )
        self.traits = Traits(
            greedy_is_fixed=True,
            decides=decides(self.settings),
            in_flight=ROUND * batch_size,
            paced=False,
            image_tokens=576,
        )
        self._gather = Gather(self._serve, most=ROUND * batch_size, quiet_ms=quiet_ms)
        self._judge: Judge | None = None

    def check(self) -> None:
        check_libraries("local", self.settings)
        self.found.check()

    async def open(self, workspace: Path) -> None:
        await self._gather.in_thread(self._load)

    async def close(self) -> None:
        """Stops at the next token, and gives the memory back."""
        await self._gather.close()
        if self._judge is not None:
            self._judge = None
            import torch

            torch.cuda.empty_cache()

    async def reply(self, request: Request) -> Reply:
        return await self._gather.reply(request)

    def _load(self) -> Judge:
        from align.models.judge import Judge

        if self._judge is None:
            self._judge = Judge(self.settings, self._gather.stopped.is_set)
        return self._judge

    def _serve(self, requests: Sequence[Request], say: Say) -> None:
        self._load().answer(requests, say)


# ------------------------------------------------------------------------------ what `local` and `local_ray` both need


class FoundModel:
    """A model's folder on this machine, if it is here: `model` is that folder, or a hub name."""

    def __init__(self, model: str) -> None:
        if not model:
            raise UserError("the annotator is a model on this machine: name it, `model: folder` or a hub name")
        self.wanted = model
        self.folder = _folder_of(model)
        self.version = model_digest(self.folder) if self.folder else ""
        """Of its files; empty while it is not here."""
        called = model if self.folder is None or "snapshots" in self.folder.parts else self.folder.resolve().name
        self.name = f"{called}@{self.version[:12]}" if self.version else model

    def check(self) -> None:
        """Raise `UserError` where it is not here, or is no checkpoint."""
        if self.folder is None:
            is_hub_name = _is_hub_name(self.wanted)
            remedy = f"fetch it once: hf download {self.wanted}" if is_hub_name else "give a folder or a hub name"
            raise UserError(f"the annotator's model {self.wanted} is not on this machine; {remedy}")
        check_folder(self.folder)


def _folder_of(model: str) -> Path | None:
    folder = Path(model).expanduser().absolute()
    if folder.is_dir():
        return folder
    if not _is_hub_name(model) or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HfHubHTTPError, OSError, ValueError):
        return None


def _is_hub_name(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~"))


def judge_settings(found: FoundModel, **options: Any) -> JudgeSettings:
    """The options as settings. Raises `UserError` for values that cannot be."""
    faults = []
    for name, hint in get_type_hints(JudgeSettings).items():
        if name not in options:
            continue
        value, known = options[name], get_args(hint)
        if known and value not in known:
            faults.append(f"options.{name} must be one of {', '.join(repr(k) for k in known)}, got {value!r}")
        elif not known and type(value) is not hint:
            faults.append(f"options.{name} must be {'true or false' if hint is bool else 'a whole number'}")
        elif name == "batch_size" and value < 1:
            faults.append(f"options.batch_size must be at least 1, got {value}")
    if faults:
        raise UserError(*faults)
    return JudgeSettings(folder=found.folder or Path(found.wanted), version=found.version, **options)


def decides(settings: JudgeSettings) -> Mapping[str, Any]:
    """What decides a reply beside the request; batches and devices do not."""
    return {
        "dtype": settings.dtype,
        "quantize": settings.quantize,
        "scaffold": settings.scaffold,
        "template": f"{settings.template} {TEMPLATE_SHA256[:12]}",
    }


def check_libraries(annotator: str, settings: JudgeSettings, **more: str) -> None:
    """Raise `UserError` with the command where a library is missing; `more` maps a library to its extra."""
    needed = {"torch": "train", "transformers": "train", **({"bitsandbytes": "qlora"} if settings.quantize else {})}
    for library, extra in {**needed, **more}.items():
        if find_spec(library) is None:
            raise UserError(
                f"annotator {annotator!r} needs the library {library!r}, which is not installed: "
                f"pip install 'mmalign[{extra}]'"
            )
