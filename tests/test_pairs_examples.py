"""Rows of supervised fine-tuning: SteerLM, rejection sampling, the teacher's answers, Chain-of-Hindsight."""

from pair_groups import HELPSTEER, A, B, C, D, annotated

from align.pairs import (
    Pairs,
    build_hindsight_examples,
    build_preference_pairs,
    build_rejection_examples,
    build_steerlm_examples,
    build_teacher_examples,
    conditioning,
)
from align.pairs.account import Account
from align.pairs.sets import Maker
from annotate.records import Annotated, Completion, Image, Prompt, Reason, Turn, replace

BUILDERS = (build_preference_pairs, build_steerlm_examples, build_rejection_examples, build_hindsight_examples)


def test_steerlm_appends_the_scores_to_the_last_question():
    image = Image(path="a.png", sha256="ab" * 32)
    row = annotated("?", [A, C])
    before = (
        Turn(role="user", text="<image>\nWhat is it?", images=(image,)),
        Turn(role="assistant", text="A digit."),
        Turn(role="user", text="Which one?"),
    )
    prompt = Prompt.of(before, source="digits", source_id="p1")
    row = Annotated(
        prompt=prompt,
        completions=tuple(replace(c, prompt_id=prompt.id) for c in row.completions),
        annotations=tuple(replace(a, prompt_id=prompt.id) for a in row.annotations),
    )
    first, second = build_steerlm_examples([row], Pairs(), seed=0)
    assert first.prompt.turns[:2] == before[:2]
    assert first.prompt.turns[2].text == (
        "Which one?\nPlease answer the question such that your response is in the following attributes in 5-point "
        "Likert scale:\nHelpfulness:4,Correctness:4,Coherence:3,Complexity:1,Verbosity:1"
    )
    assert (first.completion, first.source) == ("It is a red 7.", "steerlm")
    assert (first.prompt.source, first.prompt.source_id) == ("digits", "p1")
    assert first.meta == {"prompt_id": prompt.id, "completion_id": row.completions[0].id, "score": 11.0}
    assert second.prompt.turns[2].text.endswith("Helpfulness:3,Correctness:3,Coherence:3,Complexity:1,Verbosity:0")


def test_steerlm_trains_on_all_rated_answers_or_on_the_best():
    row = annotated("?", [A, C, ("Not rated.", None), ("", D[1]), A, D])
    assert [e.completion for e in build_steerlm_examples([row], Pairs(), seed=0)] == [A[0], C[0], D[0]]
    assert [e.completion for e in build_steerlm_examples([row], Pairs(steerlm="best"), seed=0)] == [A[0]]


def test_means_are_rounded_half_up():
    # 2 and 3 -> 2.5 -> 3; 0 and 1 -> 0.5 -> 1 (Python's round would give 2 and 0)
    row = annotated("?", [("yes", (2, 0, 4, 4, 4))], more_passes=[[(3, 1, 4, 4, 4)]])
    (example,) = build_steerlm_examples([row], Pairs(steerlm_template=" [{attributes}]"), seed=0)
    assert example.prompt.turns[0].text == "? [Helpfulness:3,Correctness:1,Coherence:4,Complexity:4,Verbosity:4]"


def test_conditioning_asks_for_whatever_it_is_given_in_the_papers_order():
    settings = Pairs(steerlm_template="{attributes}")
    highest = {name: scale.high for name, scale in HELPSTEER.attributes.items()}
    assert conditioning(highest, settings) == "Helpfulness:4,Correctness:4,Coherence:4,Complexity:4,Verbosity:4"
    assert conditioning({"visual_faithfulness": 5, "ethics": 1, "correctness": 2}, settings) == (
        "Correctness:2,Ethics:1,Visual faithfulness:5"
    )


def test_rejection_keeps_the_best_of_each_prompt():
    row = annotated("?", [C, A, D])
    (example,) = build_rejection_examples([row], Pairs(), seed=0)
    assert (example.prompt, example.completion, example.source) == (row.prompt, A[0], "rejection")
    assert example.meta == {"completion_id": row.completions[1].id, "score": 11.0}
    assert list(build_rejection_examples([row], Pairs(min_score=11), seed=0)) == [example]
    (failure,) = build_rejection_examples([row], Pairs(min_score=12), seed=0)
    assert (failure.reason, failure.detail) == (Reason.FILTERED, "best score 11, wanted 12")


def test_of_two_best_rejection_takes_the_one_that_dpo_prefers():
    rows = [annotated(f"Question {i}?", [A, B, D]) for i in range(20)]
    kept = [e.completion for e in build_rejection_examples(rows, Pairs(), seed=5)]
    assert kept == [p.chosen.text for p in build_preference_pairs(rows, Pairs(), seed=5)]
    assert set(kept) == {A[0], B[0]}


def test_teacher_examples_follow_the_prompts_and_account_for_each():
    prompts = [Prompt.of((Turn(role="user", text=text),)) for text in ("one?", "two?", "three?")]
    one, three = prompts[0].id, prompts[2].id
    answers = [
        Completion.of(prompt_id=three, model="teacher-1", index=0, text=" "),
        Completion.of(prompt_id=one, model="teacher-1", index=1, text="Second."),
        Completion.of(prompt_id=one, model="teacher-1", index=0, text="First."),
    ]
    first, second, third = build_teacher_examples(prompts, answers)
    assert (first.prompt.id, first.completion, first.source) == (one, "First.", "teacher")
    assert first.meta == {"completion_id": answers[2].id, "model": "teacher-1"}
    assert (second.record_id, second.reason) == (prompts[1].id, Reason.COMPLETIONS_MISSING)
    assert (third.record_id, third.reason) == (three, Reason.COMPLETION_EMPTY)


def test_nvidias_form_and_ones_own():
    # as in NeMo-Aligner, examples/nlp/data/steerlm (aa5b06f): LABEL_PREFIX and format_label
    highest = {name: scale.high for name, scale in HELPSTEER.attributes.items()}
    assert conditioning(highest, Pairs(steerlm_template="nvidia")) == (
        "\n<extra_id_2>helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4"
    )
    own = Pairs(steerlm_template=" ({labels}; {attributes})")
    assert conditioning({"visual_faithfulness": 5}, own) == " (visual_faithfulness:5; Visual faithfulness:5)"


def test_an_attribute_that_one_answer_lacks_is_left_out_of_its_string():
    row = annotated("?", [A])
    (annotation,) = row.annotations
    (rating,) = annotation.ratings
    partly = replace(rating, scores={"helpfulness": 4, "correctness": 3, "coherence": 4})
    row = replace(row, annotations=(replace(annotation, ratings=(partly,)),))
    (example,) = build_steerlm_examples([row], Pairs(steerlm_template="nvidia"), seed=0)
    assert example.prompt.turns[0].text == "?\n<extra_id_2>helpfulness:4,correctness:3,coherence:4"


def test_rejection_draws_skips_or_takes_all_of_several_best():
    row = annotated("?", [A, D, B, A])
    assert len(list(build_rejection_examples([row], Pairs(), seed=0))) == 1
    both = build_rejection_examples([row], Pairs(rejection_ties="all"), seed=0)
    assert [e.completion for e in both] == [A[0], B[0]]  # one text once
    (failure,) = build_rejection_examples([row], Pairs(rejection_ties="skip"), seed=0)
    assert (failure.reason, failure.detail) == (Reason.TIED, "2 completions score 11")
    # the same answer given twice is no tie
    (example,) = build_rejection_examples([annotated("?", [A, D, A])], Pairs(rejection_ties="skip"), seed=0)
    assert example.completion == A[0]


def test_every_perfect_answer_and_no_other():
    perfect = Pairs(min_score=12, rejection_ties="all")
    one, other = ("Seven.", (4, 4, 4, 0, 0)), ("A seven.", (4, 4, 4, 4, 4))
    rows = [annotated("one?", [A, one, other]), annotated("none?", [A, B])]
    first, second, failure = build_rejection_examples(rows, perfect, seed=0)
    assert [first.completion, second.completion] == ["Seven.", "A seven."]
    assert (failure.record_id, failure.detail) == (rows[1].prompt.id, "best score 11, wanted 12")


def test_hindsight_shows_the_worse_answer_and_trains_on_the_better():
    row = annotated("What is it?", [D, A])
    (pair,) = build_preference_pairs([row], Pairs(), seed=0)
    (example,) = build_hindsight_examples([row], Pairs(hindsight_template="Better, please."), seed=0)
    assert [(turn.role, turn.text) for turn in example.prompt.turns] == [
        ("user", "What is it?"),
        ("assistant", "A cat."),
        ("user", "Better, please."),
    ]
    assert (example.completion, example.source) == ("It is a red 7.", "hindsight")
    assert example.meta == {"prompt_id": row.prompt.id, "pair_id": pair.id, "margin": 7.0}


def test_hindsight_makes_an_example_of_every_pair_or_says_why_not():
    how = Pairs(rejected="all_below_margin")
    row = annotated("?", [A, C, D])
    assert [e.completion for e in build_hindsight_examples([row], how, seed=0)] == [A[0], A[0]]
    close = annotated("?", [A, B])
    assert list(build_hindsight_examples([close], how, seed=0)) == list(build_preference_pairs([close], how, seed=0))


def test_an_answer_that_holds_the_placeholder_of_an_image_goes_into_no_set():
    odd = ("See <image>.", (4, 4, 4, 4, 4))
    row, alone = annotated("?", [odd, A, D]), annotated("alone?", [odd, ("<image>", D[1])])
    empty = replace(row, completions=(replace(row.completions[0], text=""), *row.completions[1:]))
    for build in BUILDERS:
        made = list(build([row, alone], Pairs(), seed=0))
        assert made == list(build([empty, alone], Pairs(), seed=0))
        assert made[-1].reason is Reason.INVALID_INPUT and len(made) > 1
        assert made[-1].detail == "2 of 2 completions contain <image>, which would be read as an image"
    account = Account(Pairs())
    for each in (row, alone):
        account.add(Maker(Pairs(), seed=0)(each))
    assert account.total() == {"annotated": 2, "rated": 1, "margin": 1, "kept": 1}
    assert account.failures == {"invalid_input": 1}
