"""What a reply costs, from a dated table that the user can put another in the place of (`prices.yaml` says how).

    prices = Prices.load()
    prices.cost_usd("gemini-2.5-pro", {"input_tokens": 2000, "output_tokens": 500, "thought_tokens": 900}, batch=False)

A model that the table does not know has no price: None, never zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.errors import UserError

SHIPPED = Path(__file__).parent / "prices.yaml"
_VERSION = re.compile(r"-(latest|preview|exp|\d[\d-]*|preview-\d[\d-]*)$")
"""What a model's name may end with and still be the same model: `-latest`, `-001`, `-2024-08-06`, `-preview-06-05`."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of one model; dollars per million tokens."""

    input: float
    output: float
    batch: float
    """Share of the price in a batch job."""
    long_from: int | None = None
    long_input: float = 0.0
    long_output: float = 0.0

    def cost_usd(self, usage: Mapping[str, int], *, batch: bool) -> float:
        sent = usage.get("input_tokens", 0)
        written = usage.get("output_tokens", 0) + usage.get("thought_tokens", 0)
        is_long = self.long_from is not None and sent > self.long_from
        dollars = sent * (self.long_input if is_long else self.input)
        dollars += written * (self.long_output if is_long else self.output)
        return dollars / 1e6 * (self.batch if batch else 1.0)


@dataclass(frozen=True, kw_only=True)
class Prices:
    """A price table."""

    as_of: str
    by_model: Mapping[str, Price]

    @classmethod
    def load(cls, path: str = "") -> Prices:
        """The shipped table, or that at `path`. Raises `UserError` with every fault of it."""
        import yaml

        file = Path(path) if path else SHIPPED
        try:
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{file}: is no price table ({' '.join(str(error).split())}); see {SHIPPED}") from None
        faults = [f"{file}  {fault}" for fault in _faults(raw)]
        if faults:
            raise UserError(*faults)
        by_model = {
            model: _price(said, float(service.get("batch", 1.0)))
            for service in raw["services"].values()
            for model, said in service["models"].items()
        }
        return cls(as_of=str(raw["as_of"]), by_model=by_model)

    def of(self, model: str) -> Price | None:
        """The price of a model, or of the one whose version it is."""
        name = model.rpartition("/")[2]  # models/gemini-2.5-pro
        while True:
            if name in self.by_model:
                return self.by_model[name]
            shorter = _VERSION.sub("", name)
            if shorter == name:
                return None
            name = shorter

    def cost_usd(self, model: str, usage: Mapping[str, int], *, batch: bool) -> float | None:
        """Dollars for `usage` (input_tokens, output_tokens without thoughts, thought_tokens); None: no price."""
        price = self.of(model)
        return None if price is None else price.cost_usd(usage, batch=batch)


def _price(said: Mapping[str, Any], batch: float) -> Price:
    more = said.get("long", {"input": 0.0, "output": 0.0})
    return Price(
        input=said["input"],
        output=said["output"],
        batch=batch,
        long_from=said.get("long_from"),
        long_input=more["input"],
        long_output=more["output"],
    )


def _faults(raw: Any) -> Iterator[str]:
    """Everything that keeps a table from being one."""
    if not isinstance(raw, dict) or not raw.get("as_of") or not isinstance(raw.get("services"), dict):
        yield "expected `as_of` (a date) and `services`"
        return
    seen: set[str] = set()
    for service, told in raw["services"].items():
        if not isinstance(told, dict) or not isinstance(told.get("models"), dict):
            yield f"services.{service}: expected `models`"
            continue
        if not _is_amount(told.get("batch", 1.0)):
            yield f"services.{service}.batch: expected a share, got {told['batch']!r}"
        for model, said in told["models"].items():
            where = f"services.{service}.models.{model}"
            if model in seen:
                yield f"{where}: stands in the table twice"
            seen.add(model)
            yield from _model_faults(said, where)


def _model_faults(said: Any, where: str) -> Iterator[str]:
    if not isinstance(said, dict):
        yield f"{where}: expected {{input: dollars, output: dollars}}"
        return
    unknown = sorted(set(said) - {"input", "output", "long_from", "long"})
    if unknown:
        yield f"{where}: unknown {', '.join(unknown)}; known are input, output, long_from, long"
    for name, part in ((name, part) for part in (said, said.get("long", said)) for name in ("input", "output")):
        if not isinstance(part, dict) or not _is_amount(part.get(name)):
            yield f"{where}.{name}: expected dollars per million tokens"
    if ("long" in said) != ("long_from" in said):
        yield f"{where}: `long` and `long_from` belong together"


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
