"""What has been spent on a stage over all its runs, and how much may be: money is held before a request is sent.

    purse = Purse(workspace, budget_usd=5.0)
    purse.hold(0.012)     # False while spent + held + this could pass the budget; Stopped where nothing is held
    purse.settle(0.012, 0.004)

Every payment is a line of `spent.txt`.
"""

from __future__ import annotations

from pathlib import Path

from annotate.errors import Stopped


def dollars(usd: float) -> str:
    """An amount for people: cents, or what is below them."""
    return f"${usd:.2f}" if usd >= 0.1 or usd == 0 else f"${usd:.4f}"


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

    def hold(self, usd: float) -> bool:
        """Hold what a request may cost. False: not now, others have to come back first."""
        if self.budget is not None and self.spent + self.held + usd > self.budget * (1 + 1e-12):
            if self.held > 0:
                return False
            raise Stopped(
                f"budget_usd {dollars(self.budget)} is reached: {dollars(self.spent)} are spent, and the next request "
                f"may cost {dollars(usd)}; raise it to go on"
            )
        self.held += usd
        return True

    def settle(self, held: float, usd: float | None) -> None:
        """What was held is free again; what was paid is written down."""
        self.held = self.held - held if self.held - held > 1e-9 else 0.0
        if usd:
            self.spent += usd
            self._dearest = max(self._dearest, usd)
            with self._file.open("a") as stream:
                stream.write(f"\n{usd:.8f}")  # a number cut short by a kill is a number still
