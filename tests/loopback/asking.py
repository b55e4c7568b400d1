"""What tests ask a backend: records, requests, and all of them at once."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from annotate.prompting import render_question, render_request
from annotate.protocol import Annotator, Managed, Reply, Request
from annotate.records import Completion, Image, Prompt, Rubric, Scale, Turn
from loopback.answers import HELPSTEER, sha256_of

RUBRIC = Rubric(name="five", sha256="0" * 64, attributes={n: Scale(low=a, high=b) for n, (a, b) in HELPSTEER.items()})


def question(text: str, images: Sequence[bytes] = (), **decoding: Any) -> Request:
    """The annotator is to answer this itself."""
    decoding = {"temperature": 0.0, "max_output_tokens": 256, **decoding}
    prompt = _prompt(text, images)
    return render_question(prompt, backend="any", model="any", decoding=decoding, images=images)


def rating(text: str, completions: Sequence[str], images: Sequence[bytes] = (), mode: Any = "listwise") -> Request:
    """The annotator is to rate these completions of the prompt, shown in this order."""
    prompt = _prompt(text, images)
    return render_request(
        prompt,
        [Completion.of(prompt_id=prompt.id, model="m", index=i, text=c) for i, c in enumerate(completions)],
        RUBRIC,
        "Rate with care.",
        mode=mode,
        backend="any",
        model="any",
        decoding={"temperature": 0.0, "max_output_tokens": 2048},
        images=images,
        pass_index=0,
    )


def _prompt(text: str, images: Sequence[bytes]) -> Prompt:
    shown = tuple(Image(path=f"{i}.png", sha256=sha256_of(data)) for i, data in enumerate(images))
    return Prompt.of((Turn(role="user", text="<image>" * len(images) + text, images=shown),))


def ask(annotator: Annotator, *requests: Request) -> list[Reply]:
    """Ask all at once and close again; the replies in the order of the requests."""

    async def all_at_once() -> list[Reply]:
        with tempfile.TemporaryDirectory() as workspace:
            if isinstance(annotator, Managed):
                annotator.check()
                await annotator.open(Path(workspace))
            try:
                return list(await asyncio.gather(*(annotator.reply(request) for request in requests)))
            finally:
                if isinstance(annotator, Managed):
                    await annotator.close()

    return asyncio.run(all_at_once())


def picture(form: str = "PNG", shade: int = 0) -> bytes:
    """A small image file; what follows the end of the file's last block is lost when it is encoded again."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.new("RGB", (8, 8), (shade, 40, 200)).save(stream, form)
    return stream.getvalue() + b"verbatim"
