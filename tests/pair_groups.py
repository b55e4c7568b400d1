"""Groups of rated completions small enough to be worked out by hand."""

from collections import Counter

from align.pairs import Pairs, build_preference_pairs
from align.pairs.stage import PairsWork
from annotate.records import Annotated, Annotation, Completion, Prompt, Rating, Turn
from annotate.rubric import load_rubric

HELPSTEER = load_rubric("helpsteer")[0]
NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
Scores = tuple[int, int, int, int, int]


def annotated(
    question: str,
    answers: list[tuple[str, Scores | None]],
    *,
    source: str = "digits",
    more_passes: list[list[Scores]] = [],  # noqa: B006
) -> Annotated:
    """A prompt whose answers have the given helpfulness, correctness, coherence, complexity, verbosity."""
    prompt = Prompt.of((Turn(role="user", text=question),), source=source)
    completions = [
        Completion.of(prompt_id=prompt.id, model="tiny", index=i, text=text) for i, (text, _) in enumerate(answers)
    ]
    annotations = []
    for number, scores in enumerate([[s for _, s in answers], *more_passes]):
        ratings = tuple(
            Rating(completion_id=c.id, scores=dict(zip(NAMES, s, strict=True)))
            for c, s in zip(completions, scores, strict=True)
            if s is not None
        )
        annotations.append(
            Annotation(
                id=f"{prompt.id}-{number}",
                prompt_id=prompt.id,
                mode="listwise",
                pass_index=number,
                shown_order=tuple(r.completion_id for r in ratings),
                ratings=ratings,
                backend="rules",
                model="rules",
                rubric="helpsteer",
                rubric_sha256=HELPSTEER.sha256,
                request_sha256="0" * 64,
            )
        )
    return Annotated(prompt=prompt, completions=tuple(completions), annotations=tuple(annotations))


# The group of the module docstring of preference.py; score = the first three numbers.
A = ("It is a red 7.", (4, 4, 3, 1, 1))  # 11
B = ("A red 7.", (4, 3, 4, 1, 1))  # 11
C = ("A 7.", (3, 3, 3, 1, 0))  # 9: worse than the best by exactly the margin
D = ("A cat.", (1, 0, 3, 4, 4))  # 4
CLOSE = ("A red seven.", (4, 3, 3, 4, 4))  # 10: within the margin


def texts(made: list) -> list[tuple[str, str, float]]:
    return [(p.chosen.text, p.rejected.text, p.margin) for p in made]


def pairs(row: Annotated, seed: int = 0, **options: object) -> list:
    return list(build_preference_pairs([row], Pairs(**options), seed=seed))


def work(rows: list[Annotated], settings: Pairs, *, needs_pairs: bool = True) -> PairsWork:
    prompts = Counter(row.prompt.source for row in rows) + Counter(digits=1)  # one digit was sampled in vain
    return PairsWork(rows=rows, prompts=prompts, settings=settings, rubric=HELPSTEER, seed=0, needs_pairs=needs_pairs)
