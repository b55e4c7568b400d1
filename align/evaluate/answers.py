"""What a model answers to one batch of benchmark rows; recorded as it came, scored later.

    {"outputs": [["yellow", "The 9 is yellow."], …], "faults": {}, "halved": false}

One list per row, one text per question. A row that could not be asked has null for its outputs and its reason in
`faults`, by row id; the others go on. Answers are greedy, unless the benchmark wants a row drawn (MT-Bench: by
category); the answer to the first question stays in the context of the second as the model gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.benchmarks.choice import choice_output
from align.benchmarks.corruptions import VERSION, CorruptedImage
from align.benchmarks.pictures import Picture
from align.benchmarks.rows import Row
from align.benchmarks.suite import Suite
from align.evaluate.models import Contestant
from align.models.template import render
from annotate.errors import UserError
from annotate.pixels import UnreadableImage, rgb
from annotate.records import IMAGE_PLACEHOLDER, Image, Reason, Turn, sha256_of

if TYPE_CHECKING:
    from align.models.load import LoadedModel
    from align.sample.engine import Ask

GREY = (240, 240, 240)
"""Of the blank control: near the demo's own backgrounds, so that only the content is missing."""


def input_sha256(suite: Suite, row: Row, conditioning: str) -> str:
    """Hash of all that a model is shown of this row, in the template's bytes; truths are no part of it."""
    turn = suite.first_turn(row)
    text = render([turn], "")
    follow_ups = [question.text for question in row.questions[1:]]
    shown: list[Any] = [suite.images, text, [i.sha256 for i in turn.images], follow_ups, conditioning]
    if suite.corruption:
        shown += [VERSION, str(suite.corruption), suite.corruption.seed]
    if suite.demonstrations:
        shown.append([before.text for before in suite.opening(row)[:-1]])
    return sha256_of([*shown, list(row.questions[0].options)] if suite.chooses else shown)


def answer_batch(
    loaded: LoadedModel,
    contestant: Contestant,
    suite: Suite,
    rows: Sequence[Row],
    *,
    root: Path,
    workspace: Path,
    max_new_tokens: int,
    seed: int = 0,
    pictures: Mapping[str, Picture] | None = None,
) -> dict[str, Any]:
    """The line to record for these rows, which all have one temperature. `pictures`: images that are made, by hash."""
    talk = _Talk(loaded, contestant, suite, root, workspace, max_new_tokens, seed, pictures or {})
    talks: dict[str, list[Turn]] = {row.id: suite.opening(row) for row in rows}
    outputs: dict[str, list[str]] = {row.id: [] for row in rows}
    for i in range(max(len(row.questions) for row in rows)):
        asked = [row for row in rows if i < len(row.questions) and row.id not in talk.faults]
        if i:
            for row in asked:
                # What a model writes cannot put an image into its own context.
                said = outputs[row.id][-1].replace(IMAGE_PLACEHOLDER, "image")
                talks[row.id] += [Turn(role="assistant", text=said), Turn(role="user", text=row.questions[i].text)]
        for row_id, text in talk.ask(asked, [talks[row.id] for row in asked]).items():
            outputs[row_id].append(text)
    return {
        "outputs": [None if row.id in talk.faults else outputs[row.id] for row in rows],
        "faults": talk.faults,
        "halved": talk.halved,
    }


class _Talk:
    """One model, one suite, one batch; remembers which rows fell out."""

    def __init__(
        self,
        loaded: LoadedModel,
        contestant: Contestant,
        suite: Suite,
        root: Path,
        workspace: Path,
        limit: int,
        seed: int = 0,
        pictures: Mapping[str, Picture] | None = None,
    ) -> None:
        self.loaded, self.contestant, self.suite = loaded, contestant, suite
        self.root, self.workspace, self.limit = root, workspace, limit
        self.seed, self.pictures = seed, pictures or {}
        self.faults: dict[str, dict[str, str]] = {}
        self.halved = False

    def ask(self, rows: Sequence[Row], talks: Sequence[list[Turn]]) -> dict[str, str]:
        """Row id -> recorded output, without the rows that fell out."""
        from align.sample.engine import Decoding, generate, score

        asks = [(row, ask) for row, talk in zip(rows, talks, strict=True) if (ask := self._prepare(row, talk))]
        if not asks:
            return {}
        if self.suite.chooses:
            options = [row.questions[0].options for row, _ in asks]
            found = score(self.loaded, [ask for _, ask in asks], options)
            return {row.id: choice_output(o, f) for (row, _), o, f in zip(asks, options, found, strict=True)}
        how = Decoding(temperature=rows[0].temperature, max_new_tokens=self.limit)
        generated = generate(self.loaded, [a for _, a in asks], decoding=how, seed=self.seed)
        self.halved = self.halved or generated.halved
        return {row.id: draws[0].text for (row, _), draws in zip(asks, generated.draws, strict=True)}

    def _prepare(self, row: Row, talk: list[Turn]) -> Ask | None:
        """The row as the engine takes it, or a noted fault: it is encoded here, so that one bad row stays one."""
        from align.sample.engine import Ask

        *before, last = talk
        if self.contestant.conditioning:
            last = Turn(role="user", text=last.text + self.contestant.conditioning, images=last.images)
        image = self.suite.image(row) if any(turn.images for turn in talk) else None
        try:
            seen = (self._seen(image),) if image else ()
            # Draws are seeded by row and turn: the same with a picture before the question as without one.
            ask = Ask(key=f"{row.id}/{len(before)}" if before else row.id, turns=(*before, last), images=seen)
            length = len(self.loaded.encoder.prompt(ask.turns, ask.images).ids)
        except UserError as error:
            self._fault(row, Reason.INVALID_INPUT, str(error))
            return None
        except UnreadableImage as error:
            self._fault(row, Reason.IMAGE_UNREADABLE, f"its image {error}")
            return None
        except OSError as error:
            self._fault(row, Reason.IMAGE_UNREADABLE, error.strerror or type(error).__name__)
            return None
        room = self.loaded.n_positions
        if room is not None and length + self.limit > room:
            detail = f"{length} tokens and room for {self.limit} more exceed the model's {room}"
            self._fault(row, Reason.TOO_LONG, detail)
            return None
        return ask

    def _fault(self, row: Row, reason: Reason, detail: str) -> None:
        self.faults[row.id] = {"reason": reason.value, "detail": detail}

    def _seen(self, image: Image) -> Path | CorruptedImage:
        """Where the pixels are; for the blank control a grey image of the same size, written once."""
        if image.sha256 in self.pictures:
            return self.pictures[image.sha256].file(self.workspace / "pictures")
        path = self.root / image.path
        if self.suite.corruption:
            return CorruptedImage(path, image.sha256, self.suite.corruption)
        if self.suite.images != "blank":
            return path
        from PIL import Image as Pillow

        width, height = rgb(path).size
        blank = self.workspace / f"blank-{width}x{height}.png"
        if not blank.is_file():
            part = blank.with_suffix(".part")
            Pillow.new("RGB", (width, height), GREY).save(part, "PNG")
            part.replace(blank)
        return blank
