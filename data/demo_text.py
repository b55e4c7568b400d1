"""The text half of the demo world: short contexts, questions about them, and every accepted way to answer.

A context is a list of words, a list of numbers, or a scene told in words. A question has one true answer, which can
be put as a sentence, as a word, or (lists) as a numbered list. Text prompts state the form that is wanted.

    context_words(rng)  ->  "Words: pear sun map."  with questions first, last, count, copy
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

COLOURS = ("red", "blue", "green", "yellow", "purple", "black")
DIGITS = tuple(str(d) for d in range(10))
WORDS = (
    "apple pear plum lemon bread salt cat dog fox owl horse mouse sun moon star rain map pen book lamp door key hat"
).split()
YES_NO = ("yes", "no")

ASK_FORM = {
    "sentence": "Answer in one sentence.",
    "word": "Answer with one word.",
    "list": "Answer as a numbered list.",
}


def claim(vocabulary: tuple[str, ...] | list[str], truth: list[str], **more: Any) -> dict[str, Any]:
    """One slot of an answer key: the value words that may be claimed, and the true ones."""
    return {"vocabulary": list(vocabulary), "truth": truth, "given": [], "ordered": False, **more}


@dataclass(frozen=True)
class Question:
    """A question, its true answer in each form it can take, and the claims that an annotator checks."""

    kind: str
    text: str
    accepted: dict[str, str]
    """Form -> the one true answer in that form, e.g. {"word": "map", "sentence": "The last word is map."}."""
    claims: tuple[dict[str, Any], ...]
    polarity: str | None = None
    options: tuple[str, ...] = ()

    def key(self, form: str) -> dict[str, Any]:
        return {"form": form, "claims": list(self.claims)}


@dataclass
class Context:
    """What is asked about: its text and the questions that can be asked, by kind."""

    text: str
    makers: dict[str, Any] = field(default_factory=dict)

    def ask(self, rng: Random, kind: str | None = None) -> Question:
        made: Question = self.makers[kind or rng.choice(sorted(self.makers))](rng)
        return made


def a(digit: str) -> str:
    return f"an {digit}" if digit == "8" else f"a {digit}"


def enumerate_words(words: list[str]) -> str:
    return " ".join(f"{i}. {w}" for i, w in enumerate(words, 1))


def value(kind: str, text: str, answer: str, sentence: str, vocabulary: tuple[str, ...] | list[str]) -> Question:
    """A question whose answer is a single word."""
    return Question(kind, text, {"word": answer, "sentence": sentence}, (claim(vocabulary, [answer]),))


def yes_no(kind: str, text: str, holds: bool, yes: str, no: str, *, asked: str, among: Iterable[str]) -> Question:
    """A question about presence: polarity says which way the truth goes; nothing but `asked` may be named."""
    word = "Yes" if holds else "No"
    return Question(
        kind,
        text,
        {"word": word, "sentence": f"{word}, {yes if holds else no}."},
        (claim(YES_NO, [word.lower()]), claim(list(among), [], given=[asked])),
        polarity="positive" if holds else "negative",
    )


def words_context(rng: Random) -> Context:
    n = rng.randint(2, 4)
    words = rng.sample(WORDS, n)

    def position(kind: str, index: int) -> Any:
        return lambda _: value(
            kind, f"What is the {kind} word?", words[index], f"The {kind} word is {words[index]}.", WORDS
        )

    def whole(kind: str, text: str, said: str, ordered: list[str]) -> Any:
        answers = {"sentence": f"{said} {' '.join(ordered)}.", "list": enumerate_words(ordered)}
        return lambda _: Question(kind, text, answers, (claim(WORDS, ordered, ordered=True),))

    makers = {
        "first": position("first", 0),
        "last": position("last", -1),
        "count": lambda _: value("count", "How many words are there?", str(n), f"There are {n} words.", DIGITS),
        "copy": whole("copy", "What are the words?", "The words are", words),
    }
    return Context(f"Words: {' '.join(words)}.", makers)


def numbers_context(rng: Random) -> Context:
    numbers = rng.sample(DIGITS, rng.randint(3, 5))

    def extreme(kind: str, pick: Any) -> Any:
        return lambda _: value(
            kind, f"Which number is the {kind}?", pick(numbers), f"The {kind} number is {pick(numbers)}.", DIGITS
        )

    makers = {"largest": extreme("largest", max), "smallest": extreme("smallest", min)}
    return Context(f"Numbers: {' '.join(numbers)}.", makers)


def scene_makers(objects: list[tuple[str, str]]) -> dict[str, Any]:
    """Questions about coloured digits; the same for a scene told in words and one that is drawn."""
    digits, colours = [d for _, d in objects], [c for c, _ in objects]

    def exist(r: Random) -> Question:
        holds = r.random() < 0.5
        d = r.choice(digits if holds else [x for x in DIGITS if x not in digits])
        return yes_no(
            "exist", f"Is there {a(d)}?", holds, f"there is {a(d)}", f"there is no {d}", asked=d, among=DIGITS
        )

    def colour_exist(r: Random) -> Question:
        holds = r.random() < 0.5
        c = r.choice(colours if holds else [x for x in COLOURS if x not in colours])
        return yes_no(
            "colour_exist",
            f"Is there a {c} digit?",
            holds,
            f"there is a {c} digit",
            f"there is no {c} digit",
            asked=c,
            among=COLOURS,
        )

    def colour(r: Random) -> Question:
        c, d = r.choice(objects)
        return value("colour", f"What color is the {d}?", c, f"It is the {c} {d}.", COLOURS)

    def which(r: Random) -> Question:
        c, d = r.choice(objects)
        return value("which", f"Which digit is {c}?", d, f"It is the {c} {d}.", DIGITS)

    n = str(len(objects))
    noun = "digit" if n == "1" else "digits"
    verb = "is" if n == "1" else "are"
    return {
        "exist": exist,
        "colour_exist": colour_exist,
        "colour": colour,
        "which": which,
        "scene_count": lambda _: value(
            "scene_count", "How many digits are there?", n, f"There {verb} {n} {noun}.", DIGITS
        ),
        "scene_largest": lambda _: value(
            "scene_largest", "Which digit is the largest?", max(digits), f"The largest digit is {max(digits)}.", DIGITS
        ),
    }


def random_objects(rng: Random, n: int) -> list[tuple[str, str]]:
    """So many coloured digits, all colours and all digits distinct."""
    return list(zip(rng.sample(COLOURS, n), rng.sample(DIGITS, n), strict=True))


def scene_context(rng: Random) -> Context:
    objects = random_objects(rng, rng.randint(2, 4))
    return Context("Scene: " + " ".join(f"{c} {d}" for c, d in objects) + ".", scene_makers(objects))


def again(question: Question, said: str, rng: Random) -> tuple[Question, str] | None:
    """The follow-up that asks for the same answer in another form, if it has one."""
    other = [f for f in question.accepted if f != said]
    if not other:
        return None
    again_question = Question(
        f"again_{question.kind}",
        "Say that again.",
        question.accepted,
        question.claims,
        question.polarity,
    )
    return again_question, rng.choice(other)


def repeat(rng: Random) -> tuple[str, str]:
    """Say it again, word by word: the plainest exercise in looking back, on which everything else here builds."""
    said = " ".join(rng.choice((*WORDS, *COLOURS, *DIGITS)) for _ in range(rng.randint(6, 16)))
    return f"Repeat: {said}.", f"{said}."


def random_context(rng: Random) -> Context:
    return rng.choices((words_context, numbers_context, scene_context), weights=(5, 2, 4))[0](rng)


def pick_form(question: Question, rng: Random) -> str:
    """Sentences as often as the other form, so that no one form can be guessed."""
    return rng.choice(sorted(question.accepted))


def dialogue(rng: Random, n_turns: int, p_again: float = 0.35) -> tuple[Context, list[tuple[Question, str]]]:
    """A context and n questions about it, each with the form it asks for; a follow-up may ask for the same again."""
    context = random_context(rng)
    turns: list[tuple[Question, str]] = []
    while len(turns) < n_turns:
        follow = again(turns[-1][0], turns[-1][1], rng) if turns and rng.random() < p_again else None
        if follow and not turns[-1][0].kind.startswith("again_"):
            turns.append(follow)
            continue
        question = context.ask(rng)
        if all(question.text != q.text for q, _ in turns):
            turns.append((question, pick_form(question, rng)))
    return context, turns
