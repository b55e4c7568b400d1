"""How many tokens a row has for a model, without decoding its images: to the token what the `Encoder` would give.

    Lengths(encoder).measure([Asked(turns, [Path("cat.png")], "A cat.")])
      ->  [Length(prompt=612, image=576, views=1, completion=4, earlier=0)]

How many tokens an image becomes depends on its size alone, in most families: the processor is asked for it with the
size from the file's header. It is taken at its word only where it was right before: of every number of tokens that it
names, the first image is processed in earnest. Where it was wrong, or says nothing, every image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.models.encode import Encoded, Encoder
from annotate import pixels
from annotate.errors import UserError
from annotate.records import IMAGE_PLACEHOLDER, Turn


class Asked(NamedTuple):
    """A prompt with its images, and the answer that follows."""

    turns: Sequence[Turn]
    images: Sequence[Path]
    completion: str
    whole: bool = True
    """The loss falls on the answers of earlier turns, too."""


class Length(NamedTuple):
    """Tokens of a row as the language model reads it."""

    prompt: int
    """Those of its images and of earlier answers included."""
    image: int
    """Of the prompt, those that are images."""
    views: int
    """Pictures that the vision tower is shown: one an image, more where a model cuts images into pieces."""
    completion: int
    """Its end marker included."""
    earlier: int
    """Of the prompt, the answers of earlier turns, end markers included."""

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


class _Seen(NamedTuple):
    """An image to the model."""

    tokens: int
    views: int


class Lengths:
    """For one model."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._by_size: dict[tuple[int, int], _Seen] = {}
        self._proven: dict[int, _Seen] = {}
        self.decodes = not hasattr(encoder.processor, "_get_num_multimodal_tokens")
        """Whether every image has to be decoded."""

    def measure(self, rows: Sequence[Asked]) -> list[Length | OSError | UserError | ValueError]:
        """The length of every row, or what speaks against it: what `Encoder.prompt` raises, for all at once."""
        found: list[Any] = [self._images(row) for row in rows]
        sound = [i for i, seen in enumerate(found) if not isinstance(seen, Exception)]
        parts = [self._parts(rows[i]) for i in sound]
        texts = [text for row in parts for part in row for text in part]
        ids = iter(
            self._encoder.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        )
        for i, row in zip(sound, parts, strict=True):
            tokens = [(next(ids), next(ids)) for _ in row]
            found[i] = self._length(rows[i], found[i], row, tokens)
        return found

    def _parts(self, row: Asked) -> list[tuple[str, str]]:
        """What stands before each answer, and with it: of earlier turns, and of the row's own at the end."""
        asked = [(row.turns[:n], turn.text) for n, turn in enumerate(row.turns) if turn.role == "assistant"]
        rendered = (self._encoder.render(turns, answer) for turns, answer in [*asked, (row.turns, row.completion)])
        return [(before, before + after) for before, after in rendered]

    def _length(
        self, row: Asked, seen: list[_Seen], texts: list[tuple[str, str]], ids: list[tuple[list[int], list[int]]]
    ) -> Length | UserError:
        if IMAGE_PLACEHOLDER in row.completion:
            return UserError(f"the completion contains {IMAGE_PLACEHOLDER}, which would be read as an image")
        answers = []
        for (before, whole), (before_ids, whole_ids) in zip(texts, ids, strict=True):
            together = whole_ids[: len(before_ids)] == before_ids
            answers.append(len(whole_ids) - len(before_ids) if together else self._alone(whole[len(before) :]))
        prompt, image_id = ids[-1][0], self._encoder.image_id
        n_prompt, n_image = len(prompt), sum(image.tokens for image in seen)
        if seen and prompt.count(image_id) == len(seen):  # type: ignore[arg-type]
            n_prompt += n_image - len(seen)
        elif seen:  # a family that writes its placeholders otherwise
            n_prompt = len(self._encoder.prompt(row.turns, row.images).ids)
        return Length(
            prompt=n_prompt,
            image=n_image,
            views=sum(image.views for image in seen),
            completion=answers[-1],
            earlier=sum(answers[:-1]),
        )

    def _alone(self, text: str) -> int:
        return len(self._encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    # ------------------------------------------------------------------------------------------------------- images

    def _images(self, row: Asked) -> list[_Seen] | OSError | UserError | ValueError:
        wanted = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in row.turns)
        if wanted != len(row.images):
            return UserError(
                f"{wanted} {IMAGE_PLACEHOLDER} placeholder(s) but {len(row.images)} image(s) in one prompt"
            )
        if row.images and self._encoder.processor is None:
            return UserError("a language model was given an image; only vision-language models see")
        try:
            return [self._seen(path) for path in row.images]
        except (OSError, ValueError) as error:
            return error

    def _seen(self, path: Path) -> _Seen:
        if self.decodes:
            return self._processed(path)
        size = pixels.size(path)
        if size not in self._by_size:
            processor: Any = self._encoder.processor
            (told,) = processor._get_num_multimodal_tokens(image_sizes=[size[::-1]])["num_image_tokens"]
            if told not in self._proven:
                seen = self._processed(path)
                if seen.tokens != told:
                    self.decodes = True
                    return seen
                self._proven[told] = seen
            self._by_size[size] = self._proven[told]
        return self._by_size[size]

    def _processed(self, path: Path) -> _Seen:
        """What the processor makes of an image when it is decoded."""
        made = self._encoder.image(path)
        return _Seen(len(made.ids), _views(made))


def _views(made: Encoded) -> int:
    """Of one image: [1, C, H, W], or [1, pieces, C, H, W]; families that lay patches side by side show it once."""
    shape = made.images["pixel_values"].shape if "pixel_values" in made.images else ()
    return int(shape[1]) if len(shape) == 5 else 1
