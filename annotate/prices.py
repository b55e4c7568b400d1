"""What a reply costs, from a dated table that the user can put another in the place of (`prices.yaml` says how).

    prices = Prices.load()
    prices.cost_usd("gemini-2.5-pro", {"input_tokens": 2000, "output_tokens": 500, "thought_tokens": 800}, batch=False)
    # 0.0155

A model that the table does not know has no price: None, never zero, and never a guess by its likeness to another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from annotate.errors import UserError

SHIPPED = Path(__file__).parent / "prices.yaml"
_VERSION = re.compile(r"(?:-(?:latest|preview|exp|stable|\d{2,4}|\d{8}))*")
"""What may follow a model's name and leave it the same model: `-latest`, `-001`, `-2024-08-06`, `-preview-05-20`."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Dollars per million tokens; thinking costs what output costs."""

    input: float
    output: float


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one model costs, and where and when that was read."""

    rates: Rates
    long_from: int | None = None
    """A request with more input tokens than these costs `long_rates` for all of them."""
    long_rates: Rates | None = None
    batch: float = 1.0
    """Share of the price in a batch job."""
    source: str = ""
    as_of: str

    def cost_usd(self, usage: Mapping[str, int], *, batch: bool) -> float:
        """Dollars for one reply: `usage` has input_tokens, output_tokens (without thoughts) and thought_tokens."""
        sent = usage.get("input_tokens", 0)
        written = usage.get("output_tokens", 0) + usage.get("thought_tokens", 0)
        is_long = self.long_from is not None and sent > self.long_from
        rates = self.long_rates if is_long and self.long_rates else self.rates
        return (sent * rates.input + written * rates.output) / 1e6 * (self.batch if batch else 1.0)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A price table."""

    as_of: str
    by_model: Mapping[str, Price]

    @classmethod
    def load(cls, path: str = "", *, today: date | None = None) -> Prices:
        """The shipped table, or that at `path`, as it is `today`. Raises `UserError` with every fault of it."""
        file = Path(path) if path else SHIPPED
        table = _read(file)
        faults = [f"{file}: {fault}" for fault in _faults(table)]
        if faults:
            raise UserError(*faults)
        as_of = table["as_of"].isoformat()
        by_model = {
            model: _price(service, said, as_of, today or date.today())
            for service in table["services"].values()
            for model, said in service["models"].items()
        }
        return cls(as_of=as_of, by_model=by_model)

    def of(self, model: str) -> Price | None:
        """The price of a model, by the longest name in the table that it is a version of."""
        name = model.rpartition("models/")[2]  # models/gemini-2.5-pro, as Gemini writes it
        known = [k for k in self.by_model if name.startswith(k) and _VERSION.fullmatch(name, len(k))]
        return self.by_model[max(known, key=len)] if known else None

    def cost_usd(self, model: str, usage: Mapping[str, int], *, batch: bool) -> float | None:
        """Dollars for one reply of `model`; None where no price is known."""
        price = self.of(model)
        return None if price is None else price.cost_usd(usage, batch=batch)


def _price(service: Mapping[str, Any], said: Mapping[str, Any], as_of: str, today: date) -> Price:
    then = said.get("then")
    return Price(
        rates=_rates(then if then and today >= then["from"] else said),
        long_from=said.get("long_from"),
        long_rates=_rates(said["long"]) if "long" in said else None,
        batch=float(service.get("batch", 1.0)),
        source=service.get("source", ""),
        as_of=said["as_of"].isoformat() if "as_of" in said else as_of,
    )


def _rates(said: Mapping[str, Any]) -> Rates:
    return Rates(input=float(said["input"]), output=float(said["output"]))


# ------------------------------------------------------------------------------------------------------------- the file


def _read(file: Path) -> Any:
    import yaml  # not needed by those who pay for nothing

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, of which YAML would take the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            twice = [key for i, key in enumerate(keys) if key in keys[:i]]
            if twice:
                raise yaml.MarkedYAMLError(problem=f"{twice[0]} stands there twice", problem_mark=node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: is no price table ({' '.join(str(error).split())}); see {SHIPPED}") from None


def _faults(table: Any) -> Iterator[str]:
    """Everything that keeps a table from being one, each with its key."""
    yield from _wrong_keys("", table, {"as_of", "services"})
    if not isinstance(table, dict):
        return
    yield from _wrong_date("as_of", table)
    services = table.get("services", {})
    if not isinstance(services, dict):
        yield "services: expected services, each with its models"
        return
    seen: set[Any] = set()
    for name, service in services.items():
        where = f"services.{name}"
        yield from _wrong_keys(where, service, {"models"}, {"source", "batch"})
        if not isinstance(service, dict):
            continue
        if not isinstance(service.get("source", ""), str):
            yield f"{where}.source: expected the address of the page that the prices are from"
        batch = service.get("batch", 1)
        if not _is_amount(batch) or not 0 < batch <= 1:
            yield f"{where}.batch: expected a share of the price such as 0.5, got {batch!r}"
        models = service.get("models", {})
        if not isinstance(models, dict):
            yield f"{where}.models: expected models, each with input and output"
            continue
        for model, said in models.items():
            if not isinstance(model, str):
                yield f"{where}.models.{model}: a model's name is text; put it into quotation marks"
            elif model in seen:
                yield f"{where}.models.{model}: stands in the table twice"
            seen.add(model)
            yield from _model_faults(f"{where}.models.{model}", said)


def _model_faults(where: str, said: Any) -> Iterator[str]:
    yield from _wrong_keys(where, said, {"input", "output"}, {"as_of", "long_from", "long", "then"})
    if not isinstance(said, dict):
        return
    yield from _wrong_rates(where, said)
    yield from _wrong_date(f"{where}.as_of", said)
    if ("long" in said) != ("long_from" in said):
        yield f"{where}: `long` and `long_from` belong together"
    tokens = said.get("long_from", 1)
    if type(tokens) is not int or tokens < 1:
        yield f"{where}.long_from: expected a whole number of tokens, got {tokens!r}"
    for name, also in (("long", set[str]()), ("then", {"from"})):
        if name in said:
            yield from _wrong_keys(f"{where}.{name}", said[name], {"input", "output"} | also)
            yield from _wrong_rates(f"{where}.{name}", said[name])
            yield from _wrong_date(f"{where}.{name}.from", said[name])


def _wrong_keys(where: str, said: Any, needed: set[str], allowed: set[str] | None = None) -> Iterator[str]:
    known = sorted(needed | (allowed or set()))
    if not isinstance(said, dict):
        yield f"{where or 'table'}: expected {', '.join(sorted(needed))}"
        return
    dotted = f"{where}." if where else ""
    yield from (f"{dotted}{key}: unknown key; known are {', '.join(known)}" for key in said if key not in known)
    yield from (f"{dotted}{key}: is missing" for key in sorted(needed - set(said)))


def _wrong_rates(where: str, said: Any) -> Iterator[str]:
    for name in ("input", "output"):
        if isinstance(said, dict) and name in said and not _is_amount(said[name]):
            yield f"{where}.{name}: expected dollars per million tokens, got {said[name]!r}"


def _wrong_date(where: str, said: Any) -> Iterator[str]:
    name = where.rpartition(".")[2]
    if isinstance(said, dict) and name in said and type(said[name]) is not date:
        yield f"{where}: expected a day such as 2026-10-07, got {said[name]!r}"


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e5
