"""`overlap`: rates a completion by the share of the reference's words that it has.

annotate: {backend: overlap, options: {ignore_case: false}}

A backend is a class made as `Backend(model=..., **options)`, with `paid`, `model` and `reply`. It answers in text, in
the form that the request asks for, and says what became of the request; scores are read by mmalign. `traits` may say
more: this one works here, at no service's pace, and would only repeat itself.
"""

from __future__ import annotations

from annotate.prompting import Rated, write_reply
from annotate.protocol import Outcome, Reply, Request, Traits


class Overlap:
    """Compares with `prompt.reference`; prompts without one are refused, row by row."""

    paid = False
    traits = Traits(deterministic=True, paced=False)

    def __init__(self, *, model: str = "", ignore_case: bool = True) -> None:
        self.model = model or "overlap-1"
        self.ignore_case = ignore_case

    async def reply(self, request: Request) -> Reply:
        if request.prompt.reference is None:
            return Reply(outcome=Outcome.ROW_FATAL, detail="overlap needs a reference")
        wanted = self._words(request.prompt.reference)
        rated = []
        for completion in request.completions:
            shared = len(wanted & self._words(completion.text)) / len(wanted)
            points = round(4 * shared)
            scores = {"helpfulness": points, "correctness": points, "coherence": 4, "complexity": 1, "verbosity": 1}
            rated.append(Rated(scores=scores, rationale=f"{shared:.0%} of the reference's words"))
        return Reply(outcome=Outcome.OK, text=write_reply("Compared by words.", rated), model_version="overlap-1.2")

    def _words(self, text: str) -> set[str]:
        return set((text.casefold() if self.ignore_case else text).split())


class Remote(Overlap):
    """A backend whose client library is not installed: it is imported only here, when the backend is wanted."""

    def __init__(self, *, model: str = "") -> None:
        import a_client_library_that_nobody_has  # type: ignore[import-not-found]

        super().__init__(model=model)
        self.client = a_client_library_that_nobody_has


def other(*, model: str = "") -> object:
    """Makes something that is no annotator."""
    return object()
