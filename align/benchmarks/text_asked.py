"""Choices asked in words instead of compared by likelihood: MLAN's two ways (section 2.3 and its code).

    evaluate: {text: {tasks: [boolq, race], ask: templates}}

The question is put as an instruction in the model's own chat template, the answer has 20 new tokens, and what was
chosen is read off it. `templates`: one of ten instructions, drawn by the question's id, as the paper trains and
evaluates; `phrase`: always the same instruction, and the answer is begun for the model with `The best answer is "`, as
its code does it. The instructions are ours. An answer from which no option can be read is `unparsed`, in no score.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align.benchmarks.scoring import normal
from align.benchmarks.text_tasks import Row

Way = Literal["templates", "phrase"]
MAX_NEW_TOKENS = 20
PARSER = "option-letter-or-text/1"
_MARK = re.compile(r"\[[^\]]*\]")
BEGUN = 'The best answer is "'
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with its options, of which one is right."""

    text: str
    options: tuple[str, ...]
    right: int


def _boolq(row: Row) -> Choice:
    return Choice(text=f"{row['passage']}\nQuestion: {row['question']}?", options=("no", "yes"), right=row["label"])


def _race(row: Row) -> Choice:
    problem = ast.literal_eval(row["problems"])[-1]
    text = f"{row['article']}\nQuestion: {problem['question']}"
    return Choice(text=text, options=tuple(problem["options"]), right="ABCD".index(problem["answer"]))


def _openbook(row: Row) -> Choice:
    right = row["choices"]["label"].index(row["answerKey"].strip())
    return Choice(text=f"Question: {row['question_stem']}", options=tuple(row["choices"]["text"]), right=right)


def _hellaswag(row: Row) -> Choice:
    begun = _unmarked(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    endings = tuple(map(_unmarked, row["endings"]))
    return Choice(text=f"{begun}\nQuestion: How does this go on?", options=endings, right=int(row["label"]))


def _unmarked(text: str) -> str:
    """Without the marks that HellaSwag's texts from WikiHow have: `[title]`, `[step]`."""
    return " ".join(_MARK.sub("", text.replace(" [title]", ".")).split())


def _mmlu(row: Row) -> Choice:
    return Choice(text=f"Question: {row['question']}", options=tuple(row["choices"]), right=row["answer"])


CHOICES: Mapping[str, Callable[[Row], Choice]] = {
    "boolq": _boolq,
    "race": _race,
    "openbookqa": _openbook,
    "hellaswag": _hellaswag,
    "mmlu": _mmlu,
}
"""Tasks that can be asked in words, and how their rows become choices."""

_PICK = (
    "Pick the right option and give its letter.",
    "Which of these is correct? Reply with the letter alone.",
    "Choose one of the options; a letter is enough.",
    "Only one option is true. State its letter.",
    "Read the above and select the best option by its letter.",
    "Reply with the letter that stands before the right answer.",
    "From the list, name the letter of the option that fits.",
    "Decide on one option. Your reply is its letter.",
    "Give the letter of the most fitting option.",
    "What is the answer? Tell me the letter of the option.",
)
_JUDGE = (
    "Reply with yes or no.",
    "Is it so? Say yes or no.",
    "Judge by the text alone: yes or no?",
    "One word will do: yes or no.",
    "Decide between yes and no.",
    "Going by the passage, is the answer yes or no?",
    "Please settle this with a yes or a no.",
    "The answer is either yes or no. Which?",
    "Read the passage, then reply yes or no.",
    "Give your verdict, yes or no.",
)


def instruction(choice: Choice, way: Way, document_id: str) -> str:
    """What the user says."""
    judged = choice.options == ("no", "yes")
    kinds = _JUDGE if judged else _PICK
    said = kinds[0 if way == "phrase" else int(document_id[:8], 16) % len(kinds)]
    listed = [] if judged else [f"{letter}. {option}" for letter, option in zip(LETTERS, choice.options, strict=False)]
    return "\n".join([choice.text, *listed, said])


_LEAD = re.compile(r"answer\s*(?:is|:)\s*", re.IGNORECASE)
_LETTER = re.compile(r"(?:option\s+)?\(?([A-J])(?:\)|\.|:|,|\"|'|\s|$)")


def read_option(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer names, by letter or by its words; None where it names none.

    A lead-in (`the direct answer is ...`) is skipped; the answer is what comes first after it.
    """
    said = _LEAD.split(text, maxsplit=1)[-1].strip().lstrip("\"'“*")
    judged = tuple(options) == ("no", "yes")
    if judged:
        first = normal(said).split(" ", 1)[0]
        return {"no": 0, "false": 0, "yes": 1, "true": 1}.get(first)
    letter = _LETTER.match(said)
    words = normal(said)
    spelt = [i for i, option in enumerate(options) if normal(option) and _begins(words, normal(option))]
    if spelt:  # "A map" may be the letter A or an option that begins with the word: the words say more
        return max(spelt, key=lambda i: len(options[i]))
    if letter and LETTERS.index(letter[1]) < len(options):
        return LETTERS.index(letter[1])
    return None


def _begins(words: str, option: str) -> bool:
    return words == option or words.startswith(f"{option} ")


def score_choice(row: Row, task: str, output: Any) -> dict[str, float] | None:
    """`{"acc": 1.0}` or 0.0; None where no option could be read."""
    choice = CHOICES[task](row)
    chosen = read_option(output, choice.options)
    return None if chosen is None else {"acc": float(chosen == choice.right)}
