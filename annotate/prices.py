"""What a reply costs: a dated table that the user can replace.

    prices = Prices.load()                                            # annotate/prices.yaml, or a file of one's own
    prices.cost_usd("gemini-2.5-pro", {"input_tokens": 2000, "output_tokens": 500, "thought_tokens": 800}, batch=False)
    # 0.0155

A model that the table does not know has no price: None, never a guess by its likeness to another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from annotate.errors import UserError

SHIPPED = Path(__file__).parent / "prices.yaml"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Dollars per million tokens; thinking costs what output costs."""

    input: float
    output: float


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one model costs, and where and when that was read."""

    rates: Rates
    above_tokens: int | None = None
    """Requests with a longer input cost `rates_above` for all of their tokens."""
    rates_above: Rates | None = None
    batch: float | None
    """What a batch job costs of that; None where the service has no such jobs."""
    source: str
    as_of: date

    def cost_usd(self, usage: Mapping[str, int], *, batch: bool) -> float | None:
        """Dollars for one reply; None for a batch job where there are none."""
        sent = usage.get("input_tokens", 0)
        written = usage.get("output_tokens", 0) + usage.get("thought_tokens", 0)
        longer = self.above_tokens is not None and sent > self.above_tokens
        rates = self.rates_above if longer and self.rates_above else self.rates
        factor = self.batch if batch else 1.0
        return None if factor is None else factor * (sent * rates.input + written * rates.output) / 1e6


_VERSION = re.compile(r"(?:-(?:latest|preview|exp|stable|\d{2,4}|\d{8}))*")
"""What may follow a model's name and leave it the same model: `-latest`, `-001`, `-2024-08-06`, `-preview-05-20`."""


@dataclass(frozen=True)
class Prices:
    """The prices of one table, by model."""

    models: Mapping[str, Price]

    @classmethod
    def load(cls, path: str = "", *, today: date | None = None) -> Prices:
        """Read a table, the shipped one where no `path` is given; prices are those of `today`.

        Raises `UserError` with every fault of the file.
        """
        file = Path(path) if path else SHIPPED
        table = _read(file)
        faults = list(_faults(table))
        if faults:
            raise UserError(*(f"{file}: {fault}" for fault in faults))
        today = today or date.today()
        return cls(
            {
                model: _price(service, row, today)
                for service in table.values()
                for model, row in service["models"].items()
            }
        )

    @property
    def as_of(self) -> str:
        """The day of the oldest price in the table."""
        return min((price.as_of for price in self.models.values()), default=date.min).isoformat()

    def of(self, model: str) -> Price | None:
        """The price of a model, by the longest name in the table that it is a version of."""
        name = model.removeprefix("models/")
        matching = [known for known in self.models if name.startswith(known) and _VERSION.fullmatch(name[len(known) :])]
        return self.models[max(matching, key=len)] if matching else None

    def cost_usd(self, model: str, usage: Mapping[str, int], *, batch: bool) -> float | None:
        """Dollars for one reply of `model` with this `usage`; None where no price is known."""
        price = self.of(model)
        return price.cost_usd(usage, batch=batch) if price else None


def _price(service: Mapping[str, Any], row: Mapping[str, Any], today: date) -> Price:
    above = row.get("above")
    price = Price(
        rates=_rates(row),
        above_tokens=above["tokens"] if above else None,
        rates_above=_rates(above) if above else None,
        batch=service.get("batch"),
        source=service["source"],
        as_of=row["as_of"],
    )
    then = row.get("then")
    return replace(price, rates=_rates(then)) if then and today >= then["from"] else price


def _rates(row: Mapping[str, Any]) -> Rates:
    return Rates(input=float(row["input"]), output=float(row["output"]))


# ------------------------------------------------------------------------------------------------------------- the file


def _read(file: Path) -> Any:
    import yaml  # not needed by those who pay for nothing

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, of which YAML would take the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for i, key in enumerate(keys) if key in keys[:i]]
            if twice:
                raise yaml.MarkedYAMLError(problem=f"{twice[0]} is given twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text ({error}); a price table is a YAML file") from None
    except (yaml.YAMLError, TypeError) as error:
        raise UserError(f"{file}: is not YAML ({' '.join(str(error).split())})") from None


_RATE_KEYS = ("input", "output")


def _faults(table: Any) -> Iterator[str]:
    """Everything wrong with a table, each fault with its key."""
    if not isinstance(table, dict) or not table:
        yield f"expected services, each with source and models, as in {SHIPPED.name}"
        return
    seen: dict[Any, Any] = {}
    for name, service in table.items():
        yield from _wrong_keys(name, service, {"source", "models"}, {"batch"})
        if not isinstance(service, dict):
            continue
        if "source" in service and not isinstance(service["source"], str):
            yield f"{name}.source: expected the address of the page that the prices are from"
        batch = service.get("batch", 1)
        if not _is_number(batch) or not 0 < batch <= 1:
            yield f"{name}.batch: expected a share of the price such as 0.5, got {batch!r}"
        models = service.get("models", {})
        if not isinstance(models, dict):
            yield f"{name}.models: expected models, each with as_of, input and output"
            continue
        for model, row in models.items():
            if not isinstance(model, str):
                yield f"{name}.models.{model}: a model's name is text; put it into quotation marks"
            elif model in seen:
                yield f"{name}.models.{model}: is also listed under {seen[model]}"
            seen[model] = name
            yield from _faults_of_model(f"{name}.models.{model}", row)


def _faults_of_model(where: str, row: Any) -> Iterator[str]:
    yield from _wrong_keys(where, row, {"as_of", *_RATE_KEYS}, {"above", "then"})
    if not isinstance(row, dict):
        return
    yield from _wrong_rates(where, row)
    yield from _wrong_date(where, row, "as_of")
    above, then = row.get("above"), row.get("then")
    if above is not None:
        yield from _wrong_keys(f"{where}.above", above, {"tokens", *_RATE_KEYS}, set())
        if isinstance(above, dict):
            yield from _wrong_rates(f"{where}.above", above)
            tokens = above.get("tokens", 1)
            if type(tokens) is not int or tokens < 1:
                yield f"{where}.above.tokens: expected a whole number of tokens, got {tokens!r}"
    if then is not None:
        yield from _wrong_keys(f"{where}.then", then, {"from", *_RATE_KEYS}, set())
        if isinstance(then, dict):
            yield from _wrong_rates(f"{where}.then", then)
            yield from _wrong_date(f"{where}.then", then, "from")


def _wrong_keys(where: str, row: Any, needed: set[str], allowed: set[str]) -> Iterator[str]:
    if not isinstance(row, dict):
        yield f"{where}: expected {', '.join(sorted(needed))}"
        return
    for key in row:
        if key not in needed | allowed:
            yield f"{where}.{key}: unknown key; known are {', '.join(sorted(needed | allowed))}"
    for key in sorted(needed - set(row)):
        yield f"{where}.{key}: is missing"


def _wrong_rates(where: str, row: Mapping[str, Any]) -> Iterator[str]:
    for key in _RATE_KEYS:
        if key in row and (not _is_number(row[key]) or not 0 <= row[key] < 1e5):
            yield f"{where}.{key}: expected dollars per million tokens, got {row[key]!r}"


def _wrong_date(where: str, row: Mapping[str, Any], key: str) -> Iterator[str]:
    if key in row and type(row[key]) is not date:
        yield f"{where}.{key}: expected a day such as 2026-10-07, got {row[key]!r}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
