"""A vision-language model that answers annotators' requests: the part with tensors, for one thread.

    judge = Judge(JudgeSettings(folder=Path("llava-critic-7b-hf"), batch_size=8))
    judge.answer(requests, say=lambda i, reply: ...)       # `say` once for each, as they are done

Requests are run in batches of like length, left-padded, longest first, so that a batch that does not fit into memory
is met early. What a request is answered does not depend on its batch mates: greedy, or drawn from a generator that its
own hash seeds. `LocalAnnotator` runs one of these in a thread, `RayAnnotator` one in each worker.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from align.models.draws import SeededDraw, seed_of
from align.models.encode import Encoded, Encoder, left_pad, to_device
from align.models.judge_model import load_judge
from align.models.pens import FormPen, Pen, Step, Writing, form_of, n_tokens, steps_of
from annotate.errors import UserError
from annotate.pixels import UnreadableImage, rgb
from annotate.protocol import Message, Outcome, Reply, Request
from annotate.records import IMAGE_PLACEHOLDER, Image, Reason, Turn, canonical_json

if TYPE_CHECKING:
    import torch

Say = Callable[[int, Reply], None]
"""Takes the reply to the request at a position."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which model, and how it is run."""

    folder: Path
    version: str = ""
    """Digest of the files as planned with; other files are refused. Empty: any."""
    batch_size: int = 4
    device: Literal["auto", "cpu", "cuda", "spread"] = "auto"
    """`spread`: over all GPUs that can be seen, layer by layer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["", "4bit"] = ""
    template: Literal["auto", "vicuna", "processor"] = "auto"
    scaffold: bool = False


@dataclass(frozen=True)
class Row:
    """A request as the model reads it."""

    index: int
    request: Request
    prompt: Encoded
    room: int
    """Tokens it may answer with: what was asked for, or what the context window leaves."""
    steps: Sequence[Step] | None
    """The form to fill in, if any."""

    @property
    def n_tokens(self) -> int:
        return len(self.prompt.ids) + self.room

    @property
    def most(self) -> int:
        return int(self.request.decoding["max_output_tokens"])


class Judge:
    """Loads the model; raises `UserError` where it cannot."""

    def __init__(self, settings: JudgeSettings, stopped: Callable[[], bool] = lambda: False) -> None:
        """`stopped` is asked before each batch and each token; once it says so, no more is answered."""
        self.settings, self.stopped = settings, stopped
        self.loaded = load_judge(settings)
        self.version = self.loaded.digest
        if settings.version and self.version != settings.version:
            raise UserError(f"{settings.folder}: its files have changed since the run was planned; start it again")
        self._ends = self.loaded.encoder.end_ids(self.loaded.model)
        self._marks = _special_texts(self.loaded.tokenizer, self.loaded.processor)
        self._has_system = _has_system(self.loaded.encoder, settings.folder)
        self._forms: dict[str, list[Step]] = {}
        self._too_large: int | None = None
        """Tokens of the smallest batch that did not fit into memory."""

    def answer(self, requests: Sequence[Request], say: Say) -> None:
        """Answer each request, in any order."""
        rows: list[Row] = []
        for i, request in enumerate(requests):
            row = self.read(i, request)
            if isinstance(row, Reply):
                say(i, row)
            else:
                rows.append(row)
        for batch in self._batches(rows):
            for row, reply in zip(batch, in_halves(batch, self._run, self._failed), strict=True):
                if reply is not None:
                    say(row.index, reply)

    # -------------------------------------------------------------------------------------------------------- reading

    def read(self, index: int, request: Request) -> Row | Reply:
        """The request in tokens, or why it cannot be answered; `index` is kept in the row."""
        try:
            turns, pictures = _as_turns(request, self._marks)
            turns = turns if self._has_system else _without_system(turns)
            prompt = self.loaded.encoder.prompt(turns, cast("Sequence[Path]", pictures))
        except UserError as error:
            return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.INVALID_INPUT, detail=str(error))
        except Exception:  # decoders of images raise what they like
            detail = _undecodable(request.images)
            if not detail:
                raise
            return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.IMAGE_UNREADABLE, detail=detail)
        steps = self._steps(request)
        least = 1 if steps is None else n_tokens(steps) + 3  # and the line breaks before it, and the end
        room = max(int(request.decoding["max_output_tokens"]), least)
        window = self.loaded.n_positions
        if window is not None:
            room = min(room, window - len(prompt.ids))
        if room < least:
            detail = f"{len(prompt.ids)} tokens, and at least {least} of the reply; the model takes {window}"
            return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.TOO_LONG, detail=detail)
        return Row(index, request, prompt, room, steps)

    def _steps(self, request: Request) -> list[Step] | None:
        if not self.settings.scaffold or request.schema is None:
            return None
        key = canonical_json(request.schema)
        if key not in self._forms:
            self._forms[key] = steps_of(form_of(request.schema), self.loaded.tokenizer)
        return self._forms[key]

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Rows of like length together; prompts with and without images apart; none so large as failed before."""
        batch: list[Row] = []
        for row in sorted(rows, key=lambda r: (not r.prompt.images, -r.n_tokens)):
            if batch and not self._fits(batch, row):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _fits(self, batch: Sequence[Row], row: Row) -> bool:
        size = (len(batch) + 1) * max(row.n_tokens, batch[0].n_tokens)
        alike = bool(row.prompt.images) == bool(batch[0].prompt.images)
        return alike and len(batch) < self.settings.batch_size and (self._too_large is None or size < self._too_large)

    # -------------------------------------------------------------------------------------------------------- writing

    def _failed(self, rows: Sequence[Row], error: Exception) -> Reply:
        """Memory ran out over these rows. The reply if it was a single one."""
        import torch

        torch.cuda.empty_cache()
        size = len(rows) * max(row.n_tokens for row in rows)
        self._too_large = min(size, self._too_large or size)
        detail = f"{size} tokens: {str(error).splitlines()[0]}"
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.OUT_OF_MEMORY, detail=detail)

    def _run(self, rows: Sequence[Row]) -> list[Reply | None]:
        """None for every row if the judge was stopped meanwhile."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        if self.stopped():
            return [None] * len(rows)
        pens = [self._pen(row) for row in rows]
        # Every option that could bend the distribution is named: the checkpoint's own defaults fill what is left out.
        config = GenerationConfig(
            max_new_tokens=max(row.room for row in rows),
            do_sample=False,  # the pens pick, also where the pick is a draw
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            pad_token_id=self.loaded.encoder.pad_id,
            eos_token_id=self._ends,
        )
        batch = to_device(left_pad([row.prompt for row in rows], self.loaded.encoder.pad_id), self.loaded.model)
        processors: Any = LogitsProcessorList([Writing(pens, _draw(rows))])
        stopping: Any = StoppingCriteriaList([_Stopped(self.stopped)])
        with torch.inference_mode():
            self.loaded.model.generate(
                **batch, generation_config=config, logits_processor=processors, stopping_criteria=stopping
            )
        if self.stopped():
            return [None] * len(rows)
        return [self._reply(row, pen) for row, pen in zip(rows, pens, strict=True)]

    def _pen(self, row: Row) -> Pen:
        tokenizer = self.loaded.tokenizer
        if row.steps is None:
            return Pen(ends=self._ends, room=row.room, tokenizer=tokenizer)
        return FormPen(ends=self._ends, room=row.room, tokenizer=tokenizer, steps=row.steps)

    def _reply(self, row: Row, pen: Pen) -> Reply:
        said: dict[str, Any] = {
            "text": pen.text(),
            "usage": {"input_tokens": len(row.prompt.ids), "output_tokens": len(pen.tokens)},
            "model_version": self.version,
            "finish": pen.finish,
        }
        if pen.finish == "stop":
            return Reply(outcome=Outcome.OK, **said)
        if row.room == row.most:
            detail = f"cut at max_output_tokens {row.most}"
            return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.CUT_OFF, detail=detail, **said)
        # Twice the room would be no more: the window is full.
        detail = f"cut after {row.room} tokens: with the prompt's {len(row.prompt.ids)} that is all the model takes"
        return Reply(outcome=Outcome.ROW_FATAL, reason=Reason.TOO_LONG, detail=detail, **said)


T = TypeVar("T")
R = TypeVar("R")


def in_halves(
    rows: Sequence[T], run: Callable[[Sequence[T]], list[R]], failed: Callable[[Sequence[T], Exception], R]
) -> list[R]:
    """What `run` makes of the rows; where memory runs out, in halves, down to single rows.

    `failed` is told of each attempt that did not fit; what it returns is the result of a row that does not fit alone.
    """
    import torch

    try:
        return run(rows)
    except torch.OutOfMemoryError as error:
        # Without its traceback, which would keep the failed batch's tensors alive.
        what = error.with_traceback(None)
    result = failed(rows, what)
    if len(rows) == 1:
        return [result]
    middle = len(rows) // 2
    return in_halves(rows[:middle], run, failed) + in_halves(rows[middle:], run, failed)


class _Stopped:
    """A stopping criterion: all rows, as soon as told so."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self.stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        return torch.full((input_ids.shape[0],), self.stopped(), device=input_ids.device, dtype=torch.bool)


def _draw(rows: Sequence[Row]) -> SeededDraw | None:
    """The draw of a batch; its rows are of one run and so of one decoding. None: greedy."""
    decoding = rows[0].request.decoding
    temperature = float(decoding.get("temperature", 0.0))
    if temperature == 0:
        return None
    return SeededDraw([seed_of(row.request.sha256) for row in rows], temperature, float(decoding.get("top_p", 1.0)))


# ------------------------------------------------------------------------------------------------ requests as turns


class _Picture(io.BytesIO):
    """An image as bytes where the encoder expects a path: known by its content, so that it is encoded once."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.sha256 = hashlib.sha256(data).hexdigest()

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Picture) and self.sha256 == other.sha256


def _as_turns(request: Request, marks: re.Pattern[str]) -> tuple[tuple[Turn, ...], list[_Picture]]:
    """The messages as the encoder reads them. Raises `UserError` where an image is not there."""
    pictures: list[_Picture] = []
    turns = []
    for message in request.messages:
        shown = [_Picture(request.images[n]) for n in _image_numbers(message, len(request.images))]
        texts = (IMAGE_PLACEHOLDER if p.kind == "image" else marks.sub(_broken, p.text) for p in message.parts)
        images = tuple(Image(path="", sha256=picture.sha256) for picture in shown)
        turns.append(Turn(role=message.role, text="".join(texts), images=images))
        pictures += shown
    return tuple(turns), pictures


def _image_numbers(message: Message, given: int) -> list[int]:
    numbers = [part.image for part in message.parts if part.kind == "image"]
    if any(not 0 <= number < given for number in numbers):
        raise UserError(f"the request shows image {max(numbers) + 1} of {given}")
    return numbers


def _broken(mark: re.Match[str]) -> str:
    """`</s>` as `< /s>`: still legible, no longer an end."""
    return f"{mark[0][0]} {mark[0][1:]}"


def _special_texts(tokenizer: Any, processor: Any) -> re.Pattern[str]:
    """What the tokenizer would read as a mark or an image wherever it stands, also in the text of a completion."""
    texts = {IMAGE_PLACEHOLDER, getattr(processor, "image_token", None), *tokenizer.all_special_tokens} - {None, ""}
    return re.compile("|".join(re.escape(str(text)) for text in sorted(texts, key=lambda t: (-len(str(t)), str(t)))))


def _undecodable(images: Sequence[bytes]) -> str:
    """What is wrong with the first image that cannot be decoded; empty where all can."""
    for number, data in enumerate(images, 1):
        try:
            rgb(io.BytesIO(data))
        except UnreadableImage as error:
            return f"image {number} cannot be decoded: it {error}"
    return ""


def _has_system(encoder: Encoder, folder: Path) -> bool:
    """Whether the model's template has a place for a system message: some refuse it, some drop it.

    Raises `UserError` where there is no template at all.
    """
    user = Turn(role="user", text="q")
    try:
        encoder.render((user,))
    except Exception as error:  # raised by the template's own words, or for want of one
        raise UserError(
            f"{folder}: its processor has no chat template that works ({str(error).splitlines()[0]}); put one into "
            "chat_template.jinja, or set template: vicuna"
        ) from error
    word = "mmalign-probe"
    try:
        text, _ = encoder.render((Turn(role="system", text=word), user))
    except Exception:
        return False
    return word in text


def _without_system(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The system message at the beginning of the user's first."""
    if turns[0].role != "system":
        return tuple(turns)
    system, first, *rest = turns
    return (
        Turn(role=first.role, text=f"{system.text}\n\n{first.text}", images=system.images + first.images),
        *rest,
    )
