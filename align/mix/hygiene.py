"""Whether a row asks what an evaluation set asks: one row at a time, so that it can be left out before it is drawn.

What is found is what `align.overlap` finds of all rows together, and is told in its words: a question about an image is
asked again only where text and image meet in one row; where that cannot be known, the row stays, and the report says
`unknown`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from align.doctor.sets import load_set
from align.overlap import Entry, Overlap
from align.prints import ImagePrint
from annotate.errors import UserError


class Exam:
    """One evaluation set. `overlap` is for what was drawn; `asks` looks at a row alone and remembers nothing."""

    def __init__(self, name: str, file: Path, image_root: Path | None) -> None:
        self.name, self.file = name, file
        self._questions = load_set(name, file, image_root)
        self.overlap = Overlap(name, self._questions)
        self._worded: dict[int, list[Entry]] = defaultdict(list)
        for number, question in zip(self.overlap.wording, self.overlap.questions, strict=True):
            self._worded[number].append(question)

    def asks(self, row: Entry) -> bool:
        """Whether some question stands in the row, about an image of the row if it is about one."""
        for text in row.texts:
            for number, hit in self.overlap.index.look_up(text):
                if hit.share >= self.overlap.min_share and any(self._same(q, row) for q in self._worded[number]):
                    return True
        return False

    def _same(self, question: Entry, row: Entry) -> bool:
        if not question.n_images:
            return True
        names = {image.name for image in question.images} | set(question.unopened)
        unopened = set(question.unopened) & {image.name for image in row.images}
        if unopened or names & set(row.unopened):
            return True
        return any(self._alike(a, b) for a in question.images for b in row.images)

    def _alike(self, a: ImagePrint, b: ImagePrint) -> bool:
        if a.flat or b.flat or a.sha256 == b.sha256 or a.dct is None or b.dct is None:
            return a.sha256 == b.sha256 and not (a.flat or b.flat)
        gradients = ((a.gradient or 0) ^ (b.gradient or 0)).bit_count()
        return (a.dct ^ b.dct).bit_count() <= self.overlap.distance and gradients <= self.overlap.distance


def load_exams(against: Sequence[str]) -> list[Exam]:
    """The sets of `--against NAME=FILE[,IMAGE_ROOT]`. Raises `UserError` for the first that cannot be read."""
    named: dict[str, tuple[Path, Path | None]] = {}
    for given in against:
        name, _, rest = given.partition("=")
        file, comma, root = rest.rpartition(",")
        if not comma or Path(rest).exists():  # a comma may stand in the name of a file that there is
            file, root = rest, ""
        if not (name and file) or name in named:
            raise UserError(f"--against {given}: write NAME=FILE or NAME=FILE,IMAGE_ROOT, each NAME once")
        named[name] = Path(file), Path(root) if root else None
    return [Exam(name, file, root) for name, (file, root) in named.items()]
