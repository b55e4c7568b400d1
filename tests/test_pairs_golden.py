"""The same training sets as ever from ten annotated prompts: `pairs_golden/`.

`default.jsonl` holds every row in full; `options.tsv` one row a line for other settings, which record and why. After a
change that is meant to change them: `python tests/test_pairs_golden.py`, and look at the difference.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from align.pairs import Pairs, build_preference_pairs, build_rejection_examples, build_steerlm_examples
from align.pairs.batches import pairs_of_lines
from align.pairs.lengths import balanced
from align.pairs.sets import Maker
from annotate.jsonl import read_records
from annotate.records import Annotated, Example, Failure, PreferencePair, Record

HERE = Path(__file__).parent / "pairs_golden"
SETS = ("preference", "steerlm", "rejection", "hindsight")
OPTIONS = {
    "worst": Pairs(rejected="worst", ties="skip", rejection_ties="skip"),
    "all_below_margin": Pairs(rejected="all_below_margin", max_length_ratio=4, steerlm="best"),
    "all_pairs": Pairs(rejected="all_pairs", max_pairs=2, min_margin=1, rejection_ties="all"),
    "weights": Pairs(score={"helpfulness": 0.65, "correctness": 0.8, "verbosity": -0.1}, min_score=5),
    "noise": Pairs(fraction=0.5, flip=0.5, sets=SETS),
    "lengths": Pairs(length_gap="balance", cut_off="drop"),
    "nvidia": Pairs(steerlm_template="nvidia", score="helpfulness_correctness"),
    "preferences": Pairs(basis="preferences", sets=SETS),
}


def annotated() -> list[Annotated]:
    return list(read_records(HERE / "annotated.jsonl", Annotated))


def default() -> str:
    lines = (HERE / "annotated.jsonl").read_text(encoding="utf-8").splitlines()
    made = pairs_of_lines({"line": lines}, Pairs(sets=SETS), seed=0)
    return "".join(f"{line}\n" for line in made["line"])


def options() -> str:
    bounded = {name: balanced(annotated(), settings, seed=3) for name, settings in OPTIONS.items()}
    return "".join(f"{name}\t{row}\n" for name, settings in bounded.items() for row in told(settings))


def told(settings: Pairs) -> Iterator[str]:
    for row in annotated():
        for name, records in Maker(settings, seed=3)(row).sets.items():
            for record in records:
                yield "\t".join((name, *map(str, essence(record))))


def essence(record: Record) -> tuple[object, ...]:
    if isinstance(record, PreferencePair):
        return record.id, record.chosen.text, record.rejected.text, record.margin, ",".join(record.evidence)
    if isinstance(record, Example):
        return record.id, record.completion, repr(record.prompt.turns[-1].text)
    assert isinstance(record, Failure)
    return record.record_id, record.reason.value, record.detail


def test_the_default_sets_in_full():
    assert default() == (HERE / "default.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OPTIONS)
def test_the_sets_of_other_options(name):
    def of_name(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(f"{name}\t")]

    assert of_name(options()) == of_name((HERE / "options.tsv").read_text(encoding="utf-8"))


def test_the_golden_prompts_reach_every_set_and_many_a_failure():
    rows = annotated()
    for build in (build_preference_pairs, build_steerlm_examples, build_rejection_examples):
        assert sum(not isinstance(made, Failure) for made in build(rows, Pairs(), seed=0)) >= 7
    reasons = {made.reason.value for made in build_preference_pairs(rows, Pairs(), seed=0) if isinstance(made, Failure)}
    assert reasons == {"no_margin", "completions_missing", "unrated"}


if __name__ == "__main__":
    (HERE / "default.jsonl").write_text(default(), encoding="utf-8")
    (HERE / "options.tsv").write_text(options(), encoding="utf-8")
