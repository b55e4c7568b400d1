"""The price table: what a reply costs, which line of the table is a model's, and tables of one's own."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from annotate.errors import UserError
from annotate.prices import SHIPPED, Prices

TABLE = """
as_of: 2026-02-15
services:
  mine:
    source: https://example.org/prices
    batch: 0.5
    models:
      judge: {input: 1, output: 10, long_from: 1000, long: {input: 2, output: 15}, as_of: 2026-01-15}
      judge-mini: {input: 0.1, output: 1}
      judge-2024-05-13: {input: 5, output: 50}
      rising: {input: 1, output: 2, then: {from: 2027-01-01, input: 3, output: 4}}
  other:
    models:
      "3": {input: 1, output: 1}
"""


def load(tmp_path: Path, text: str = TABLE, today: date | None = None) -> Prices:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return Prices.load(str(path), today=today)


def test_a_reply_costs_its_tokens_and_thinking_is_output(tmp_path: Path) -> None:
    prices = load(tmp_path)
    usage = {"input_tokens": 1000, "output_tokens": 200, "thought_tokens": 300}
    assert prices.cost_usd("judge", usage, batch=False) == (1000 * 1 + 500 * 10) / 1e6
    assert prices.cost_usd("judge", usage, batch=True) == (1000 * 1 + 500 * 10) / 2e6
    assert prices.cost_usd("judge", {}, batch=False) == 0.0
    assert (prices.as_of, prices.by_model["judge"].as_of) == ("2026-02-15", "2026-01-15")


def test_a_long_request_costs_more_for_all_of_its_tokens(tmp_path: Path) -> None:
    usage = {"input_tokens": 1001, "output_tokens": 100}
    assert load(tmp_path).cost_usd("judge", usage, batch=False) == (1001 * 2 + 100 * 15) / 1e6


def test_a_price_that_is_announced_counts_from_its_day_on(tmp_path: Path) -> None:
    usage = {"input_tokens": 1_000_000}
    assert load(tmp_path, today=date(2026, 12, 31)).cost_usd("rising", usage, batch=False) == 1.0
    assert load(tmp_path, today=date(2027, 1, 1)).cost_usd("rising", usage, batch=False) == 3.0


def test_a_batch_costs_the_same_where_no_share_is_given(tmp_path: Path) -> None:
    assert load(tmp_path).cost_usd("3", {"input_tokens": 1}, batch=True) == 1e-6


@pytest.mark.parametrize(
    ("model", "input_price"),
    [
        ("judge", 1),
        ("models/judge", 1),  # as Gemini writes it
        ("publishers/google/models/judge", 1),
        ("judge-latest", 1),
        ("judge-001", 1),
        ("judge-preview-05-20", 1),
        ("judge-2024-08-06", 1),
        ("judge-2024-05-13", 5),  # a version with a price of its own
        ("judge-mini", 0.1),
        ("judge-mini-2025-04-14", 0.1),
        # What only begins like a model is another model.
        ("judge-mega", None),
        ("judge-mini-audio", None),
        ("judge-32k", None),
        ("judge-2", None),
        ("judge2", None),
        ("judge.1", None),
        ("judg", None),
        ("ft:judge-mini:me", None),
        ("reseller/judge", None),
        ("", None),
    ],
)
def test_which_line_is_a_models(model: str, input_price: float | None, tmp_path: Path) -> None:
    price = load(tmp_path).of(model)
    assert (price.rates.input if price else None) == input_price


@pytest.mark.parametrize(
    ("model", "price"),
    [("gemini-2.5-pro", (1.25, 10.0)), ("gemini-2.5-flash-001", (0.3, 2.5)), ("gpt-4o-mini-2024-07-18", (0.15, 0.6))],
)
def test_the_shipped_table(model: str, price: tuple[float, float]) -> None:
    found = Prices.load().of(model)
    assert found is not None
    assert (found.rates.input, found.rates.output) == price
    assert found.source.startswith("https://")
    assert date(2025, 1, 1) < date.fromisoformat(found.as_of) <= date.today()
    assert found.batch == 0.5


def test_the_example_in_the_docstring() -> None:
    usage = {"input_tokens": 2000, "output_tokens": 500, "thought_tokens": 800}
    assert Prices.load().cost_usd("gemini-2.5-pro", usage, batch=False) == 0.0155


def test_every_fault_of_a_table_is_told_with_its_key(tmp_path: Path) -> None:
    text = """
as_of: today
services:
  mine:
    source: 7
    batch: 2
    prices: 1
    models:
      a: {input: 1e-3, output: -1}
      b: {as_of: yesterday, input: 1, otput: 1}
      c: 3
      5: {input: 1, output: 1}
      d: {input: 1, output: 1, long_from: 2.5, then: {input: 1, output: 1}}
      e: {input: true, output: .nan, long: {input: 1}}
  other: {models: {a: {input: 1, output: 1}}}
  third: 1
"""
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    file = tmp_path / "prices.yaml"
    assert [fault.removeprefix(f"{file}: ").removeprefix("services.") for fault in error.value.faults] == [
        "as_of: expected a day such as 2026-10-07, got 'today'",
        "mine.prices: unknown key; known are batch, models, source",
        "mine.source: expected the address of the page that the prices are from",
        "mine.batch: expected a share of the price such as 0.5, got 2",
        "mine.models.a.input: expected dollars per million tokens, got '1e-3'",  # YAML reads that as text
        "mine.models.a.output: expected dollars per million tokens, got -1",
        "mine.models.b.otput: unknown key; known are as_of, input, long, long_from, output, then",
        "mine.models.b.output: is missing",
        "mine.models.b.as_of: expected a day such as 2026-10-07, got 'yesterday'",
        "mine.models.c: expected input, output",
        "mine.models.5: a model's name is text; put it into quotation marks",
        "mine.models.d: `long` and `long_from` belong together",
        "mine.models.d.long_from: expected a whole number of tokens, got 2.5",
        "mine.models.d.then.from: is missing",
        "mine.models.e.input: expected dollars per million tokens, got True",
        "mine.models.e.output: expected dollars per million tokens, got nan",
        "mine.models.e: `long` and `long_from` belong together",
        "mine.models.e.long.output: is missing",
        "other.models.a: stands in the table twice",
        "third: expected models",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "table: expected as_of, services"),
        ("as_of: 2026-01-01", "services: is missing"),
        ("{as_of: 2026-01-01, services: [1]}", "services: expected services, each with its models"),
        ("a: [", "is no price table"),
        ("{as_of: 2026-01-01, services: {}, as_of: 2026-01-02}", "is no price table .as_of stands there twice"),
    ],
)
def test_a_file_that_is_no_table(text: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=fault):
        load(tmp_path, text)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: is no price table \(.*\); see .*prices\.yaml"):
        Prices.load(str(tmp_path / "gone.yaml"))


def test_the_table_lies_in_the_package_and_loading_the_module_reads_nothing() -> None:
    assert SHIPPED.parent.name == "annotate"
    code = "import annotate.prices, sys; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
