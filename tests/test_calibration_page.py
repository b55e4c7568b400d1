"""The calibration card as a whole: its account, in words, as a page; the same whatever the order of the input."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser

import pytest
from graded import SUM, card_of, compared, everything, failed, levels, rated

from align.calibration import card_text
from align.calibration.words import LINES, WIDTH, short
from align.report.calibration import card_html, card_page
from annotate.records import Reason, replace

# ------------------------------------------------------------------------------------------------- outcomes and cost


def test_outcomes_by_reason():
    """Eight questions of six prompts: prompt 0 in part, 1 to 3 whole, 8 and 9 lost."""
    records = [rated(i, lambda index, place, k: index) for i in range(4)]
    failures = [failed(0, Reason.UNPARSABLE), failed(8, Reason.BLOCKED), failed(9, Reason.BLOCKED)]
    card = card_of(records, failures=failures, funnel={"prompts": 6, "annotated": 4})
    found = card["outcomes"]
    assert (found["n"], found["answered"], found["failed"]) == (7, 4, 3)
    assert found["reasons"] == [{"reason": "blocked", "count": 2}, {"reason": "unparsable", "count": 1}]
    assert found["prompts"] == {"annotated": 3, "in_part": 1, "lost": 2}
    assert found["funnel"] == [{"step": "prompts", "count": 6}, {"step": "annotated", "count": 4}]
    assert "3 of 7 (42.9%): blocked 2, unparsable 1" in card_text(card)


def test_cost_tokens_and_versions():
    records = []
    for i in range(3):
        record = rated(i, lambda index, place, k: index)
        usage = {"input_tokens": 1000, "output_tokens": 100 * i, "thought_tokens": 7}
        told = replace(record.annotations[0], usage=usage, model_version=f"judge-00{i % 2}")
        records.append(replace(record, annotations=(told,)))
    card = card_of(records, cost_usd=0.6, calls=5)
    assert (card["cost"]["usd"]["value"], card["cost"]["usd_per_prompt"]["value"], card["cost"]["calls"]) == (
        0.6,
        0.2,
        5,
    )
    assert [(t["kind"], t["total"], t["per_annotation"]["value"]) for t in card["cost"]["tokens"]] == [
        ("input_tokens", 3000, 1000.0),
        ("output_tokens", 300, 100.0),
        ("thought_tokens", 21, 7.0),
    ]
    assert [(v["version"], v["annotations"]) for v in card["annotator"]["versions"]] == [
        ("judge-000", 2),
        ("judge-001", 1),
    ]
    assert levels(card)["model version"] == "mind"  # two models rated one set
    assert card["annotator"]["rubrics"][0] == {"rubric": "helpsteer", "sha256": "0" * 64, "annotations": 3}
    assert card_of(records, cost_usd=None)["cost"]["usd"]["value"] is None


def test_one_prompt_has_figures_but_no_intervals():
    card = card_of([rated(0, lambda index, place, k: index, passes=2)])
    mean = card["scores"]["measures"]["correctness"]["mean"]
    assert mean == {"value": 1.5, "low": None, "high": None, "n": 1, "why": "an interval takes two prompts at least"}
    assert card["position"]["p"]["value"] is None
    assert card_html(card)


@pytest.mark.parametrize("failures", [(), [failed(i, Reason.BLOCKED) for i in range(3)]])
def test_nothing_is_annotated(failures):
    card = card_of([], failures=failures)
    assert card["outcomes"]["failed"] == len(failures) and card["outcomes"]["prompts"]["lost"] == len(failures)
    assert card["cost"]["usd_per_prompt"]["value"] is None
    for section in ("scores", "position", "length", "consistency"):
        assert card[section] == {"n": 0, "why": "nothing is annotated"}
    assert card_text(card).startswith(f"calibration: nothing is annotated, {len(failures)} failures")
    assert well_formed(card_page(card))


# ------------------------------------------------------------------------------------------------ order, words, page


def test_the_order_of_the_input_is_no_matter():
    records, failures, lines = everything()
    first = json.dumps(card_of(records, lines, failures=failures))
    for seed in range(3):
        dice = random.Random(seed)
        turned = [
            replace(
                r,
                completions=tuple(dice.sample(r.completions, 4)),
                annotations=tuple(
                    replace(a, ratings=tuple(dice.sample(a.ratings, 4))) for a in dice.sample(r.annotations, 2)
                ),
            )
            for r in dice.sample(records, len(records))
        ]
        again = card_of(turned, dice.sample(lines, len(lines)), failures=dice.sample(failures, len(failures)))
        assert json.dumps(again) == first


def test_another_seed_moves_intervals_and_nothing_else():
    records, failures, lines = everything()
    one, other = (card_of(records, lines, failures=failures, seed=seed) for seed in (0, 1))
    alpha = [c["consistency"]["measures"][SUM]["alpha_ordinal"] for c in (one, other)]
    assert alpha[0]["value"] == alpha[1]["value"] and alpha[0] != alpha[1]
    assert alpha[0]["low"] == pytest.approx(alpha[1]["low"], abs=0.05)


def test_the_terminal_gets_a_dozen_lines_worst_first():
    records, failures, lines = everything()
    text = card_text(card_of(records, lines, failures=failures, calls=99, cost_usd=1.5))
    rows = text.splitlines()
    assert len(rows) <= LINES == 12 and max(map(len, rows)) <= WIDTH == 120
    assert rows[0] == "calibration: 14 prompts, 28 listwise annotations by written out"
    marks = [row[:2] for row in rows[1:-1]]
    assert marks == sorted(marks, key=["!!", "! ", "ok", "  "].index) and marks[0] == "!!"
    assert rows[-1] == "   cost: 99 calls, $1.50 ($0.1071 a prompt)"


def test_long_counts_are_short():
    assert [short(n) for n in (12, 9_999, 12_345, 999_949, 999_950)] == ["12", "9,999", "12.3k", "999.9k", "1.00M"]


EVIL = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m"


class Tree(HTMLParser):
    """Notes which elements are open, and complains of one that is closed out of turn."""

    VOID = frozenset({"meta", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)  # <line/>: opened and closed

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> out of turn"


def well_formed(html: str) -> set[str]:
    """The elements of a page in which all that is opened is closed."""
    tree = Tree()
    tree.feed(html)
    tree.close()
    assert tree.open == []
    return tree.seen


def test_hostile_names_are_shown_and_never_run():
    records, failures, lines = everything()
    hostile = [
        replace(
            r,
            annotations=tuple(
                replace(
                    a,
                    backend=EVIL,
                    model=EVIL,
                    model_version=EVIL + str(a.pass_index),
                    rubric=EVIL,
                    rubric_sha256=EVIL,
                    usage={EVIL: 3},
                    ratings=tuple(replace(x, scores={**x.scores, EVIL: 1}) for x in a.ratings),
                )
                for a in r.annotations
            ),
        )
        for r in records
    ]
    card = card_of(hostile, lines, failures=failures, funnel={EVIL: 3})
    page = card_page(card)
    seen = well_formed(page)
    assert "svg" in seen and not seen & {"script", "img", "iframe", "link"}
    assert page.count("<style>") == page.count("</style>") == 1 and "&lt;script&gt;" in page
    assert "\x1b" not in card_text(card)


def test_the_page_asks_nobody_for_anything():
    records, failures, lines = everything()
    page = card_page(card_of(records, lines, failures=failures))
    assert "http:" not in page and "https" not in page and "url(" not in page and "default-src 'none'" in page
    assert page == card_page(card_of(records, lines, failures=failures))


@pytest.mark.parametrize("records", [[compared(i, lambda a, b: "first") for i in range(3)], everything()[0][:1]])
def test_every_kind_of_card_makes_a_page(records):
    assert well_formed(card_page(card_of(records)))


def test_the_report_shows_the_card_where_there_is_one():
    from align.report.gather import Findings
    from align.report.page import render_page, report_json

    card = card_of(everything()[0])
    with_card = Findings(title="t", name="n", seed=0, calibration=card)
    assert card_html(card) in render_page(with_card, None, cards=0)
    assert report_json(with_card, None)["calibration"] == card
    assert "calibration" not in render_page(Findings(title="t", name="n", seed=0), None, cards=0).split("</style>")[1]


def test_a_run_from_before_there_was_a_card_is_read_like_any_other(tmp_path):
    from small_run import annotate_recipe, finish

    from align.base import Models
    from align.recipe import load_recipe
    from align.report.gather import gather
    from align.runner import Prompted, RunContext

    recipe = load_recipe(annotate_recipe(tmp_path), [f"runs={tmp_path / 'runs'}"])
    context = RunContext(recipe, "report", Models(recipe), Prompted(recipe))
    outputs = {"annotated.jsonl": [], "failures.jsonl": []}
    finish(recipe, "annotate", outputs)
    finish(recipe, "pairs", {"preference.jsonl": [], "failures.jsonl": [], "funnel.json": {}})
    assert gather(context).calibration == {}
    finish(recipe, "annotate", outputs | {"calibration.json": card_of([])})
    assert gather(context).calibration == card_of([])
