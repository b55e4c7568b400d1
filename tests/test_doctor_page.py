"""The doctor in words and as a page: worst news first, self-contained, nothing unescaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from doctored import Record, call, completion_of, pair, points, prompt_of, rated, report_of

from align.doctor import verdict_text
from align.doctor.thresholds import THRESHOLDS, check_limits, read_limits, table_text
from align.doctor.words import FEWEST, LEVELS, LINES, WIDTH, findings, limit_text
from align.overlap import MIN_SHARE, SIZES, Entry, Overlap
from align.prints import DISTANCE
from align.report.doctor import doctor_html, doctor_page
from annotate.errors import UserError
from annotate.records import Annotated, Rating

NASTY = '<script>alert("x")</script><img src=http://evil.example/x.png>'


def test_the_document_says_the_numbers_of_the_code() -> None:
    page = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text(encoding="utf-8")
    said = " ".join(page.split())
    assert f"from fewer than {FEWEST} prompts" in said
    assert f"at least {MIN_SHARE:.0%} of the n-grams" in said
    assert "of {} words, of {} where".format(*SIZES) in said
    assert f"differ in {DISTANCE} bits" in said
    assert all(f"| `{name}` |" in page for name in THRESHOLDS)


def searched(name: str = "pope", item: str = "q", text: str = "Question 1?") -> dict[str, Any]:
    overlap = Overlap(name, [Entry(id=item, texts=(text,))])
    overlap.add(Entry(id="r", texts=("Question 1?", text)))
    return overlap.result()


def levels(report: dict[str, Any]) -> dict[str, str]:
    return {finding.topic: finding.level for finding in findings(report)}


# ------------------------------------------------------------------------------------------------------------- words


def test_good_pairs_are_called_good():
    records = [pair(i, "a cat", "a cat and a dog") for i in range(30)]
    records += [pair(100 + i, "a dog with a hat", "a dog") for i in range(30)]
    found = levels(report_of(records))
    assert (found["length"], found["duplicates"], found["vocabulary"]) == ("good", "good", "good")


def test_long_winded_pairs_are_bad_news():
    """30 of 40 won by the longer, chosen 4 times as long or a quarter as long: e^(ln 4 / 2) = 2 times."""
    records = [pair(i, "x" * 40, "x" * 10) for i in range(30)] + [pair(50 + i, "x" * 10, "x" * 40) for i in range(10)]
    report = report_of(records)
    assert levels(report)["length"] == "bad"
    assert "the longer one is chosen in 75% [" in verdict_text(report)
    assert "chosen is 2.00 [" in verdict_text(report)


def test_every_fault_has_its_finding_worst_first():
    records: list[Record] = [pair(1, "a", "b", margin=-1), pair(1, "b", "a"), pair(2, "c", "c"), pair(3, "a", "b")]
    records += [pair(3, "a", "b"), *(rated(i, points(a=1, b=1)) for i in range(10))]
    report = report_of(records, leakage=[searched()], bad_rows=["x.jsonl:3: no id"])
    found = levels(report)
    for topic in (
        "contradictions",
        "chosen = rejected",
        "margins below 0",
        "leakage pope",
        "bad rows",
        "no preference",
    ):
        assert found[topic] == "bad", topic
    assert found["duplicates"] == "mind"
    order = [LEVELS.index(f.level) for f in findings(report)]
    assert order == sorted(order)
    text = verdict_text(report)
    assert text.splitlines()[1].startswith("!! ")
    assert all(len(line) <= WIDTH for line in text.splitlines()) and len(text.splitlines()) <= LINES + 2


def test_few_prompts_are_judged_by_what_is_there_and_not_by_estimates():
    records = [pair(i, "x" * 40, "x" * 10) for i in range(9)]
    assert levels(report_of(records))["length"] == "info"
    (said,) = (f.text for f in findings(report_of(records)) if f.topic == "length")
    assert said.endswith("n=9; chosen is 4.00 [4.00, 4.00] times as long: too few prompts to say")
    assert levels(report_of([pair(1, "a", "a")]))["chosen = rejected"] == "bad"
    assert levels(report_of([*records, pair(9, "x" * 40, "x" * 10)]))["length"] == "bad"


def test_what_cannot_be_known_is_said():
    text = verdict_text(report_of([pair(1, "a cat", "a dog")]))
    assert "cannot be known from pairs without margins" in text
    assert "cannot be known from pairs without scores" in text
    assert " 0.0%" not in text.replace("none among", "")


# ------------------------------------------------------------------------------------------------------------ limits


def test_limits_compare_the_estimate_and_allow_the_limit_itself():
    report = report_of([pair(i, "long text", "text" if i < 6 else "a longer text") for i in range(10)])
    assert report["length"]["win_rate"]["value"] == 0.6
    for limit, broken in (("0.6", False), ("0.59", True), ("0.61", False)):
        (checked,) = check_limits(report, read_limits([f"max_length_win_rate={limit}"]))
        assert checked["broken"] is broken
    (checked,) = check_limits(report, read_limits(["min_length_win_rate=0.7"]))
    assert checked["broken"]
    # 0.59 is broken by the estimate, while the interval of ten prompts reaches far below it
    (checked,) = check_limits(report, {"max_length_win_rate": 0.59}, "interval")
    assert not checked["broken"]
    assert check_limits(report, {"max_length_win_rate": 0.1}, "interval")[0]["broken"]


def test_a_figure_that_cannot_be_known_breaks_its_limit():
    report = report_of([pair(1, "a cat", "a dog")])
    (checked,) = check_limits(report, {"max_verbosity_drift": 0.5})
    assert checked["broken"] and checked["figure"]["value"] is None
    assert "cannot be known from pairs without scores" in limit_text(checked)
    assert "length_gap" not in limit_text(checked)  # the remedy for a figure that is too large
    (checked,) = check_limits(report, {"max_leakage": 0.0})
    assert checked["broken"] and "--against" in limit_text(checked)


def test_what_could_not_be_compared_breaks_the_limit_and_is_told_everywhere():
    """Four of the 12 questions are asked in the data about an image that nobody opened; none of the others is."""
    asked = [Entry(id=f"q{i}", texts=(f"Question {i}?",), n_images=1) for i in range(12)]
    overlap = Overlap("pope", asked)
    for i in range(4):
        overlap.add(Entry(id=f"r{i}", texts=(f"Question {i}?",), n_images=1))
    report = report_of([pair(1, "a cat", "a dog")], leakage=[searched("other", text="Who?"), overlap.result()])
    said = "4 are asked in the data, their images could not be compared: give NAME=FILE,IMAGE_ROOT and --image-root"
    for limit in (0.0, 1.0):  # what was left out may be anything
        (checked,) = check_limits(report, {"max_leakage": limit})
        assert checked["broken"] and said in limit_text(checked)
    (found,) = (f for f in findings(report) if f.topic == "leakage pope")
    assert (found.level, found.text) == ("mind", f"{said}; 0.0% of the other 8 questions stand in the data")
    assert said in " ".join(verdict_text(report).split())  # on two lines
    assert all(len(line) <= WIDTH for line in verdict_text(report).splitlines())
    page = doctor_page(report)
    assert f"in the data: 0.0% of 8; {said}" in page
    assert "<b>4</b> text there, image not compared" in page and "<td>not compared</td>" in page


def test_each_threshold_finds_its_figure():
    """A set in which everything can be known."""
    scores = {"aa": {"helpfulness": 3, "verbosity": 1, "complexity": 2}, "b": dict.fromkeys(_THREE, 1)}
    records: list[Record] = [rated(i, scores, meta={"polarity": "positive"}) for i in range(4)]
    records += [pair(i, "aa word", "b word", margin=2) for i in range(4, 9)]
    records += [pair(i, "aa", "b", margin=2) for i in range(4)]
    cat = Entry(id="q", texts=("What?",), images=(_print(),), n_images=1)
    overlap = Overlap("set", [cat])
    overlap.add(Entry(id="r", texts=("What?",), images=(_print(),), n_images=1))
    report = report_of(records, leakage=[overlap.result()])
    values = {c["name"]: c["figure"]["value"] for c in check_limits(report, dict.fromkeys(THRESHOLDS, 0.0))}
    assert set(values) == set(THRESHOLDS)
    assert None not in values.values()
    assert values["min_pairs"] == 9 and values["max_bad_rows"] == 0
    assert (values["max_leakage"], values["max_shared_images"]) == (1.0, 1.0)
    assert (values["min_margin_mean"], values["max_complexity_drift"], values["max_verbosity_drift"]) == (2.0, 1.0, 0.0)
    assert all(name in table_text() for name in THRESHOLDS)


_THREE = ("helpfulness", "verbosity", "complexity")


def _print() -> Any:
    from align.prints import ImagePrint

    return ImagePrint(sha256="a" * 64, dct=1, gradient=1)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("max_lenght_win_rate=0.6", "did you mean 'max_length_win_rate'"),
        ("max_ties", "write a number after it, e.g. max_ties=0.6"),
        ("max_ties=much", "write a number after it"),
        ("max_ties=nan", "write a number after it"),
    ],
)
def test_what_is_no_limit_is_told(option: str, said: str):
    with pytest.raises(UserError, match=said) as error:
        read_limits([option, "nonsense=1"])
    assert len(error.value.faults) == 2 and error.value.exit_code == 2


# -------------------------------------------------------------------------------------------------------------- page


class Page(HTMLParser):
    """Tags, and everything a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.unclosed: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "xlink:href", "data", "action")]
        if tag not in ("meta", "br", "img"):
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag


def full_report() -> dict[str, Any]:
    records: list[Record] = [
        rated(i, {"aa": dict.fromkeys(_THREE, i % 5), "b": dict.fromkeys(_THREE, 2)}, source="s") for i in range(8)
    ]
    records += [pair(i, "aa yes " * 3, "b no", margin=i % 3, meta={"polarity": "positive"}) for i in range(8)]
    return report_of(
        records, leakage=[searched()], bad_rows=["f.jsonl:2: bad"], limits={"max_ties": 0.01}, funnel={"prompts": 9}
    )


def test_the_page_asks_nobody_for_anything():
    page = doctor_page(full_report())
    parsed = Page(page)
    assert parsed.fetched == [] and parsed.unclosed == []
    assert not {"script", "link", "iframe", "object", "img"} & set(parsed.tags)
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert parsed.tags.count("svg") >= 7


def test_the_section_holds_every_part():
    section = doctor_html(full_report())
    for title in (
        "How much there is", "Margins: chosen − rejected", "Best − worst", "Ties", "Is longer chosen?",
        "Do scores follow length?", "What drifts", "Does the place matter?", "all score the same",
        "What is there twice", "Yes and no", "Correlation of attributes", "… within each prompt",
        "Words that tell", "Leakage: pope", "Rows that could not be read: 1",
    ):  # fmt: skip
        assert title in section, title
    assert doctor_html(full_report()) == section


def test_what_is_not_there_is_no_zero():
    section = doctor_html(report_of([pair(1, "a cat", "a dog")]))
    assert "completions</li>" not in section and "– (no annotated rows)" in section
    assert "<b>0</b> of these scored" not in section and "0 / 0 / 0" not in section


def test_names_and_words_of_the_data_are_escaped():
    prompt = prompt_of(1, source=NASTY, meta={"polarity": NASTY})
    two = (completion_of(prompt, "a"), completion_of(prompt, "b"))
    ratings = tuple(Rating(completion_id=c.id, scores={NASTY: i}) for i, c in enumerate(two))
    nasty = Annotated(prompt=prompt, completions=two, annotations=(call(prompt, two, ratings=ratings),))
    leak = searched(name=NASTY, item=NASTY, text="Question 1?")
    report = report_of([nasty, pair(1, "a", "b")], leakage=[leak], bad_rows=[NASTY])
    page = Page(doctor_page(report))
    assert not {"script", "img"} & set(page.tags)
    assert "alert(&quot;x&quot;)" in doctor_page(report)
    assert "\x1b" not in verdict_text(report_of([nasty], bad_rows=["\x1b[31m red"]))
    assert page.unclosed == []


def test_a_set_of_which_little_is_known_still_has_a_page():
    for records in ([prompt_of(1)], [pair(1, "", "")], [rated(1, {})]):
        assert Page(doctor_page(report_of(records))).unclosed == []
