"""Recorded replies instead of a service, and how annotators are found by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from annotators import answers, prompt, read_image, run_work

from align.settings import Annotate, Teach
from annotate.backends.registry import installed, make_annotator
from annotate.errors import UserError
from annotate.jsonl import write_records
from annotate.records import Completion, Prompt, Reason
from annotate.run import AnnotateWork
from annotate.teach import TeachWork

# ------------------------------------------------------------------------------------------------------------- replay


def replaying(file: Path, prompts: Sequence[Prompt], completions: Sequence[Completion], seed: int) -> AnnotateWork:
    settings = Annotate(backend="replay", options={"file": str(file)})
    return AnnotateWork(prompts=prompts, completions=completions, settings=settings, seed=seed, read_image=read_image)


def recorded(tmp_path: Path) -> tuple[list[Prompt], list[Completion], Any]:
    """Three prompts rated by `rules`, with replies.jsonl and annotated.jsonl on disk."""
    prompts = [prompt(f"Which colour {i}?") for i in range(3)]
    completions = [c for p in prompts for c in answers(p, "It is blue.", "It is red.", "red")]
    work = AnnotateWork(prompts=prompts, completions=completions, settings=Annotate(), seed=0, read_image=read_image)
    _, compiled = run_work(work, tmp_path)
    for name in ("replies.jsonl", "annotated.jsonl"):
        write_records(tmp_path / name, compiled.files[name])
    return prompts, completions, compiled


def test_replies_of_a_run_can_be_replayed(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    _, replayed = run_work(replaying(tmp_path / "replies.jsonl", prompts, completions, seed=0), tmp_path)
    assert [a.scores() for a in replayed.files["annotated.jsonl"]] == [
        a.scores() for a in original.files["annotated.jsonl"]
    ]
    assert replayed.files["annotated.jsonl"][0].annotations[0].model.startswith("recorded@")


def test_replies_are_not_given_for_another_order_but_annotations_are(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    _, replayed = run_work(replaying(tmp_path / "replies.jsonl", prompts, completions, seed=3), tmp_path)
    assert {f.reason for f in replayed.files["failures.jsonl"]} == {Reason.NOT_RECORDED}
    _, replayed = run_work(replaying(tmp_path / "annotated.jsonl", prompts, completions, seed=3), tmp_path)
    assert [a.scores() for a in replayed.files["annotated.jsonl"]] == [
        a.scores() for a in original.files["annotated.jsonl"]
    ]


def test_a_preference_is_turned_round_with_the_pair(tmp_path: Path) -> None:
    asked = [prompt(f"Which colour {i}?") for i in range(4)]
    completions = [c for p in asked for c in answers(p, "It is blue.", "It is red.")]

    def preferred(seed: int, **settings: Any) -> list[tuple[tuple[str, ...], str | None]]:
        work = AnnotateWork(
            prompts=asked,
            completions=completions,
            settings=Annotate(mode="pairwise", **settings),
            seed=seed,
            read_image=read_image,
        )
        _, compiled = run_work(work, tmp_path)
        write_records(tmp_path / f"annotated-{seed}.jsonl", compiled.files["annotated.jsonl"])
        return [(a.shown_order, a.preference) for r in compiled.files["annotated.jsonl"] for a in r.annotations]

    red = {c.id for c in completions if c.text == "It is red."}
    original = preferred(0)
    replayed = preferred(3, backend="replay", options={"file": str(tmp_path / "annotated-0.jsonl")})
    assert [order for order, _ in original] != [order for order, _ in replayed]
    for order, preference in [*original, *replayed]:
        assert preference == ("first" if order[0] in red else "second")


def test_with_a_partial_file_the_missing_prompts_are_failures(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    write_records(tmp_path / "partial.jsonl", original.files["replies.jsonl"][1:])
    _, replayed = run_work(replaying(tmp_path / "partial.jsonl", prompts, completions, seed=0), tmp_path)
    (failure,) = replayed.files["failures.jsonl"]
    assert (failure.record_id, failure.reason) == (prompts[0].id, Reason.NOT_RECORDED)
    assert [a.prompt.id for a in replayed.files["annotated.jsonl"]] == [p.id for p in prompts[1:]]
    assert replayed.units == replayed.outputs + replayed.failures == 3


def test_another_recording_is_another_annotator(tmp_path: Path) -> None:
    prompts, completions, original = recorded(tmp_path)
    write_records(tmp_path / "partial.jsonl", original.files["replies.jsonl"][1:])
    one, other = (
        {unit.key for unit in replaying(tmp_path / name, prompts, completions, seed=0).units}
        for name in ("replies.jsonl", "partial.jsonl")
    )
    assert not one & other


def test_a_teacher_can_be_replayed_from_its_completions(tmp_path: Path) -> None:
    prompts = [prompt("Which colour?", reference="It is red."), prompt("Another?", reference="Blue.")]
    _, taught = run_work(TeachWork(prompts=prompts, settings=Teach(), seed=0, read_image=read_image), tmp_path)
    write_records(tmp_path / "completions.jsonl", taught.files["completions.jsonl"][:1])
    settings = Teach(backend="replay", options={"file": str(tmp_path / "completions.jsonl")})
    _, replayed = run_work(TeachWork(prompts=prompts, settings=settings, seed=0, read_image=read_image), tmp_path)
    assert [c.text for c in replayed.files["completions.jsonl"]] == ["It is red."]
    assert [f.reason for f in replayed.files["failures.jsonl"]] == [Reason.NOT_RECORDED]


def test_a_bad_recording_is_refused_with_every_faulty_line(tmp_path: Path) -> None:
    file = tmp_path / "replies.jsonl"
    file.write_text(
        '{"prompt_id": "a", "text": "fine"}\n{"prompt_id": "a", "text": "again"}\n'
        '{"prompt": "a", "text": "fine"}\n{"prompt_id": "b", "text": 7}\n[]\n'
    )
    with pytest.raises(UserError) as error:
        make_annotator("replay", "", {"file": str(file)})
    assert [fault.split(":")[-2][-1] for fault in error.value.faults] == ["2", "3", "4", "5"]


# ----------------------------------------------------------------------------------------------------------- registry


def test_annotators_are_found_by_name() -> None:
    assert {"rules", "replay"} <= set(installed())
    for name, options, message in (
        ("rule", {}, "no annotator 'rule'; did you mean 'rules'?  Installed: "),
        ("replay", {}, "annotator 'replay' needs the option 'file'"),
        ("replay", {"file": "x", "fiel": "y"}, "has no option 'fiel'; did you mean 'file'?  Known: file"),
        ("replay", {"file": "/nowhere/x.jsonl"}, "/nowhere/x.jsonl: cannot be read"),
        ("rules", {"strict": True}, "annotator 'rules' has no option 'strict'."),
    ):
        with pytest.raises(UserError) as error:
            make_annotator(name, "", options)
        assert message in str(error.value)
