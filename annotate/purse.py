"""What has been spent on a stage over all its runs, and how much may be: money is held before a request is sent.

purse = Purse(workspace, budget_usd=5.0)
purse.hold(0.012)          # Stopped if spent + held + this could pass the budget
purse.settle(0.012, 0.004)
"""

from __future__ import annotations

from pathlib import Path

from annotate.errors import Stopped


class Purse:
    """Keeps every payment as a line of `spent.txt`."""

    def __init__(self, workspace: Path, budget_usd: float | None) -> None:
        self._file = workspace / "spent.txt"
        self.budget = budget_usd
        paid = [float(usd) for usd in self._file.read_text().split()] if self._file.exists() else []
        self.spent: float = sum(paid)
        self.held = 0.0
        self._dearest = max(paid, default=0.0)

    def most(self, estimated: float | None) -> float:
        """What one request may cost: the estimate, or the dearest so far where that was more."""
        return max(estimated or 0.0, self._dearest)

    def hold(self, usd: float) -> None:
        if self.budget is not None and self.spent + self.held + usd > self.budget * (1 + 1e-12):
            raise Stopped(
                f"budget_usd {self.budget:.2f} is reached (spent {self.spent:.2f}, {self.held:.2f} under way, the next "
                f"request may cost {usd:.4f}); raise it to go on"
            )
        self.held += usd

    def settle(self, held: float, usd: float | None) -> None:
        """What was held is free again; what was paid is written down."""
        self.held = max(0.0, self.held - held)
        if usd:
            self.spent += usd
            self._dearest = max(self._dearest, usd)
            with self._file.open("a") as stream:
                stream.write(f"\n{usd:.8f}")  # a number cut short by a kill is a number still
