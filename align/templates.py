"""Instructions around a question, and the target that ends in "the direct answer is": 20 wordings of each kind, ours.

    as_instruction(prompt, …, seed=0, copy=0)  ->  Instruction(target="Put simply, the direct answer is: 1852.", …)

Which wordings a row gets is drawn by hash from the seed, the row's id and which copy of it this is; neither the order
of rows nor their number matters. MLAN (section 2.1, Appendix C.2, Tables 7-10) has 20 instructions for each type of
answer and 20 ways to begin the line with the direct answer; its lists carry no licence, so these are other words.

`align.answers` reads every target as the answer that it states: where that is not plain it is tried as the target is
made, and where an option's text could be taken for another's letter, letter and text are written both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align.answers import FAILED, LETTERS, AnswerType, has_word, looks_like_letter, one_line, read_answer, same_answer
from align.settings import option
from annotate.errors import RecordError
from annotate.records import IMAGE_PLACEHOLDER, Prompt, replace

MULTIPLE_CHOICE = (
    "Exactly one of these is right. Which one?",
    "Weigh the candidates and settle on one:",
    "One entry of this list answers it; name that entry:",
    "Only one line below holds. Find it:",
    "Decide between these possibilities:",
    "Read all of them, then commit to one:",
    "Which of these would you defend?",
    "Your answer has to be on this list:",
    "Settle it with one of these:",
    "Consider what each of these claims and keep the one that is true:",
    "What can be said is listed here; take what holds:",
    "Rule out what does not fit and tell what is left:",
    "Match the question with one entry:",
    "There is a single solution among these candidates. Give it:",
    "You have these to decide between:",
    "Solve it by taking one item of the list:",
    "Commit to whichever of these is best supported:",
    "These are on offer; which one is sound?",
    "Go through the list and report the entry that fits:",
    "All but one of these are wrong. Say which one is not:",
)
SHORT_ANSWER = (
    "A word or a phrase will do.",
    "No full sentence is needed.",
    "Say it in as few words as you can.",
    "One to five words are enough.",
    "Just name what is asked for.",
    "State the fact alone.",
    "Use the fewest words that still say it.",
    "Put the answer into a handful of words.",
    "The bare answer is all that is wanted.",
    "Keep the answer below one line.",
    "Word the answer as a telegram would.",
    "Add nothing to the answer itself.",
    "Limit the answer to its essential words.",
    "State it and stop.",
    "Be as terse as a dictionary entry.",
    "Name it without decoration.",
    "An answer of a single phrase is what is looked for.",
    "Hold the answer to a minimum of words.",
    "Write the answer as you would into a form.",
    "Spare every word that the answer can do without.",
)
TRUE_FALSE = (
    "Decide: yes or no?",
    "Settle it with yes or with no.",
    "Two words are possible: yes, no.",
    "Yes or no: which is it?",
    "Commit yourself to a yes or a no.",
    "State whether this is a yes or a no.",
    "Only yes and no count as answers here.",
    "Judge it and say yes or no.",
    "Make up your mind between yes and no.",
    "Choose between the words yes and no.",
    "A yes or a no is wanted.",
    "Take a side: yes or no.",
    "End with a clear yes or a clear no.",
    "Either yes or no; nothing in between.",
    "Say yes if it holds, and no if it does not.",
    "Let yes mean that it is so, and no that it is not.",
    "Your verdict can be yes or it can be no.",
    "Would you say yes, or would you say no?",
    "It is a matter of yes or no; which?",
    "Bring your verdict down to yes or no.",
)
DIRECT_ANSWER = (
    "Stated plainly",
    "Put simply",
    "Taken together",
    "On balance",
    "Weighing all of this",
    "With everything considered",
    "Said in one line",
    "Without further words",
    "As the result",
    "Brought to a point",
    "Having looked at the question",
    "Going by what is known here",
    "Seen as a whole",
    "Hence",
    "Accordingly",
    "Therefore",
    "To settle the question",
    "To answer what was asked",
    "Boiled down",
    "Leaving the details aside",
)
"""How the line begins: "Put simply, the direct answer is: 1852."."""

WORDINGS: Mapping[AnswerType, Sequence[str]] = {
    "multiple_choice": MULTIPLE_CHOICE,
    "short_answer": SHORT_ANSWER,
    "true_false": TRUE_FALSE,
}


@dataclass(frozen=True, kw_only=True)
class Templates:
    """What is put around questions and answers."""

    instruction: bool = option(True, "one of 20 instructions for the type of answer, beside the question")
    direct_line: bool = option(True, "the target ends in a line `…, the direct answer is: ANSWER.`")
    before: Literal["nothing", "answer", "rationale"] = option(
        "nothing",
        "what stands in the target before that line. MLAN appends the line to every instance (Appendix A) and does not "
        "say to what; it reads answers of few tokens, so nothing precedes it here. `rationale`: of rows that have one",
    )
    choice: Literal["text", "letter", "both"] = option(
        "text", "an option is named by its text, its letter, or `B. text`"
    )


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """A row as it is trained upon."""

    prompt: Prompt
    target: str
    answer: str
    """As it is stated: text, letter or both."""
    type: AnswerType | None
    """None: question and answer are as they came."""
    instruction: int | None = None
    """Number of the wording."""
    direct_answer: int | None = None
    rationale: bool = False


def answer_type(prompt: Prompt, wanted: str = "auto") -> AnswerType | None:
    """How the answer of a row looks: what is `wanted`, or what the row's `meta.task` says; None: as it is."""
    found = prompt.meta.get("task") if wanted == "auto" else wanted
    return next((kind for kind in WORDINGS if kind == found), None)


def as_instruction(
    prompt: Prompt, kind: AnswerType | None, templates: Templates, *, seed: int, copy: int
) -> Instruction:
    """The row in its wordings. Raises `RecordError` for a row without an answer, or without the options it needs."""
    answer, choices, index = _answered(prompt, kind)
    if kind is None:
        return Instruction(prompt=_bare(prompt, prompt.turns[-1].text), target=answer, answer=answer, type=None)
    verb, lead = wordings(kind, prompt.id, seed, copy)
    asked = _asked(prompt, kind, choices, WORDINGS[kind][verb] if templates.instruction else "")
    stated, line = _stated(answer, kind, choices, index, lead, templates)
    rationale = one_line(_text(prompt.meta, "rationale")) if templates.before == "rationale" else ""
    above = rationale or (stated if templates.before == "answer" and templates.direct_line else "")
    return Instruction(
        prompt=_bare(prompt, asked),
        target=f"{above}\n{line}" if above else line,
        answer=stated,
        type=kind,
        instruction=verb if templates.instruction else None,
        direct_answer=lead if templates.direct_line else None,
        rationale=bool(rationale),
    )


def check_row(prompt: Prompt, kind: AnswerType | None, templates: Templates) -> None:
    """Raise `RecordError` for a row that `as_instruction` would refuse; most are told without making the target."""
    answer, choices, index = _answered(prompt, kind)
    texts = [_text(prompt.meta, key) for key in ("question", "context", "rationale")]
    plain = not any(IMAGE_PLACEHOLDER in text for text in (*texts, *choices)) and (bool(texts[0]) or not choices)
    if kind is not None and not (plain and _certain(answer, kind, choices, index, templates)):
        as_instruction(prompt, kind, templates, seed=0, copy=0)


def _answered(prompt: Prompt, kind: AnswerType | None) -> tuple[str, tuple[str, ...], int | None]:
    """The answer, the options, and which of them it is. Raises `RecordError` where they are missing."""
    answer, reference = _text(prompt.meta, "answer"), (prompt.reference or "").strip()
    answer = one_line(answer or reference) if kind else reference or answer
    if not answer:
        raise RecordError("no answer: reference is empty")
    if IMAGE_PLACEHOLDER in answer:
        raise RecordError(f"its answer holds {IMAGE_PLACEHOLDER}")
    if kind != "multiple_choice":
        return answer, (), None
    choices, index = _choices(prompt.meta), prompt.meta.get("answer_index")
    if type(index) is not int or not 0 <= index < len(choices):
        raise RecordError(f"meta.answer_index: {index!r:.20} is none of {len(choices)} choices")
    return answer, choices, index


def wordings(kind: AnswerType, row: str, seed: int, copy: int) -> tuple[int, int]:
    """Which instruction and which beginning of the last line a row gets."""
    drawn = hashlib.sha256(f"{seed} {kind} {row} {copy}".encode()).digest()
    return tuple(int.from_bytes(part, "big") % 20 for part in (drawn[:8], drawn[8:16]))  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------------- the question


def _text(meta: Mapping[str, Any], key: str) -> str:
    value = meta.get(key, "")
    if not isinstance(value, str):
        raise RecordError(f"meta.{key}: expected text, got {value!r:.40}")
    return value.strip()


def _choices(meta: Mapping[str, Any]) -> tuple[str, ...]:
    given = meta.get("choices")
    if not isinstance(given, list) or not all(isinstance(choice, str) for choice in given) or len(given) < 2:
        raise RecordError("meta.choices: a multiple-choice row needs a list of two or more texts")
    if len(given) > len(LETTERS):
        raise RecordError(f"meta.choices: {len(given)} options, more than there are letters")
    return tuple(map(one_line, given))


def _asked(prompt: Prompt, kind: AnswerType, choices: Sequence[str], instruction: str) -> str:
    """The last turn's text: images, passage, question, instruction, options, each on lines of its own."""
    last = prompt.turns[-1]
    question, context = _text(prompt.meta, "question"), _text(prompt.meta, "context")
    if choices and not question:
        raise RecordError("meta.question: a multiple-choice row needs the question without its options")
    if not question:
        return f"{last.text}\n{instruction}" if instruction else last.text
    images = [IMAGE_PLACEHOLDER] * len(last.images)
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    body = [question, *([instruction] if instruction else []), *options]
    return "\n".join([*images, *([context, ""] if context else []), *body])


def _bare(prompt: Prompt, asked: str) -> Prompt:
    """The prompt with another last text, without what only its source needs to know."""
    turns = (*prompt.turns[:-1], replace(prompt.turns[-1], text=asked))
    return Prompt.of(turns, source=prompt.source, source_id=prompt.source_id, reference=prompt.reference)


# --------------------------------------------------------------------------------------------------------- the target


def _stated(
    answer: str, kind: AnswerType, choices: Sequence[str], index: int | None, lead: int, templates: Templates
) -> tuple[str, str]:
    """The answer in the form that reads back as itself, and the line (or the answer alone) that ends the target."""
    forms = [one_line(answer)]
    if index is not None:
        letter, text = LETTERS[index], choices[index]
        by = {"text": text, "letter": letter, "both": f"{letter}. {text}"}
        forms = [by.pop(templates.choice), by["both"] if "both" in by else text, f"({letter}) {text}", letter]
    if kind == "true_false" and answer.casefold() in ("true", "false"):
        forms = ["yes" if answer.casefold() == "true" else "no"]
    certain = _certain(answer, kind, choices, index, templates)
    for form in forms:
        line = direct_line(form, lead) if templates.direct_line else form
        found = FAILED if certain else read_answer(line, kind, choices)
        if certain or (found.index == index if choices else found.text and same_answer(found.text, form)):
            return form, line
    if kind == "true_false":
        raise RecordError(f"the answer of a true-or-false row is {answer!r:.40}, neither yes nor no")
    if kind == "short_answer" and not templates.direct_line:
        return forms[0], forms[0]  # nothing is promised of an answer without the line
    raise RecordError("its answer cannot be read back: do its options have the same text?")


def _certain(answer: str, kind: AnswerType, choices: Sequence[str], index: int | None, templates: Templates) -> bool:
    """Whether the wanted form reads back without trying: true of nearly all rows, and trying takes its time."""
    if kind == "short_answer":
        return templates.direct_line
    if kind == "true_false":
        return answer in ("yes", "no")
    # Beside the stop that ends the line: different texts, none empty, none that could be a letter.
    bare = [choice.rstrip(".") for choice in choices]
    different = len(set(bare)) == len(bare) and all(bare) and not any(map(looks_like_letter, bare))
    return templates.direct_line and templates.choice == "text" and different


def direct_line(answer: str, lead: int) -> str:
    """The last line of a target; a stop is added to words that do not end in a mark of their own."""
    stop = "." if has_word(answer) and not answer.endswith((".", "!", "?", "…")) else ""
    return f"{DIRECT_ANSWER[lead]}, the direct answer is: {answer}{stop}"
