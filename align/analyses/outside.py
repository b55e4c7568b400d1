"""Results that another program recorded, as rows of a table: models behind an API, or evaluated elsewhere.

    lm_eval --model local-chat-completions … --output_path runs/api/gpt-4-turbo --log_samples
    align score pope --answers … --json > runs/api/gpt-4v-pope.json

Each file stands for a run: its sha256 is the run's identity. lm-eval's samples, where they lie beside its results, give
the interval and pair the questions of two models; without them the interval is that of lm-eval's standard error. A
number without n or bounds is refused. Format: `results_*.json` and `samples_<task>_*.jsonl` of lm-eval 0.4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.analyses.sources import Leaf, with_width
from align.benchmarks.measures import Measure, Outcome, average, estimate, mean, within
from align.benchmarks.suites import SUITES
from align.benchmarks.text_rows import MACRO, headline_of
from align.benchmarks.text_tasks import GROUPS, KNOWN, TASKS
from align.digest import file_sha256
from annotate.errors import UserError
from annotate.jsonl import read_rows

Z = 1.959964
DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class LmEval:
    """What one call of the lm_eval command wrote."""

    path: Path
    found: Mapping[str, Any]
    sha256: str
    warnings: tuple[str, ...] = ()
    _samples: dict[str, Sequence[Outcome]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def models(self) -> tuple[str, ...]:
        return (str(self.found.get("model_name") or "model"),)

    def leaf(self, model: str, suite: str, measure: str) -> Leaf | str:
        if suite not in KNOWN:
            return f"{self.name}: lm-eval has no {suite}"
        tasks = self._tasks(suite)
        absent = [task for task in tasks if task not in self.found["results"]]
        if absent or not tasks:
            return f"{self.name}: not asked {', '.join(absent) or suite}"
        name = measure or headline_of(suite)
        key = "acc" if name == MACRO else name
        if key not in TASKS[_task_of(suite)].measures:
            return f"{self.name}: {suite} has no measure {name!r}"
        answers = self.outcomes(model, suite)
        if answers and all(key in outcome.value for outcome in answers):
            made = _measure(suite, name, tasks)
            figure = estimate(made, answers, draws=DRAWS)
            if figure.value is not None and figure.low is not None and figure.high is not None:
                low, high = with_width(figure.value, figure.low, figure.high, figure.n)
                return Leaf(value=figure.value, low=low, high=high, n=figure.n, n_failed=figure.n_failed, measure=made)
        return self._of_errors(suite, name, tasks, key)

    def outcomes(self, model: str, suite: str) -> Sequence[Outcome]:
        """Of all tasks of a suite, each with its task as category; none where one's samples were not logged."""
        found = [self._samples_of(task) for task in self._tasks(suite)] if suite in KNOWN else []
        return [o for answers in found for o in answers] if all(found) else ()

    def _tasks(self, suite: str) -> tuple[str, ...]:
        if suite == "mmlu":
            return tuple(sorted(task for task in self.found.get("n-samples", {}) if task.startswith("mmlu_")))
        return GROUPS.get(suite, (suite,))

    def _of_errors(self, suite: str, name: str, tasks: Sequence[str], key: str) -> Leaf:
        """The mean of tasks by lm-eval's own numbers and standard errors; raises `UserError` where they are missing."""
        rows = [self._reported(task, key) for task in tasks]
        total = sum(n for _, _, n in rows)
        shares = [1 / len(rows) if name == MACRO else n / total for _, _, n in rows]
        value = sum(share * value for share, (value, _, _) in zip(shares, rows, strict=True))
        se = math.sqrt(sum((share * se) ** 2 for share, (_, se, _) in zip(shares, rows, strict=True)))
        low, high = with_width(value, value - Z * se, value + Z * se, total)
        return Leaf(value=value, low=low, high=high, n=total, n_failed=0)

    def _reported(self, task: str, key: str) -> tuple[float, float, int]:
        """Value, standard error, n."""
        metric, _, kept = _lm_eval_key(task, key).partition(",")
        row = self.found["results"][task]
        told: dict[str, Any] = {
            "value": row.get(f"{metric},{kept}"),
            "standard error": row.get(f"{metric}_stderr,{kept}"),
        }
        told["n (n-samples)"] = (self.found.get("n-samples", {}).get(task) or {}).get("effective")
        lacking = [what for what, one in told.items() if not _number(one)]
        if lacking:
            raise UserError(
                f"{self.path}: {task}: {metric},{kept} has no {', no '.join(lacking)}: no number is printed without n "
                "and interval; run lm_eval again with --log_samples, and keep the samples beside the results"
            )
        value, se, n = told.values()
        return float(value), float(se), int(n)

    def _samples_of(self, task: str) -> Sequence[Outcome]:
        if task not in self._samples:
            path = self._sample_file(task)
            self._samples[task] = tuple(self._read_samples(path, task)) if path else ()
        return self._samples[task]

    def _sample_file(self, task: str) -> Path | None:
        """Beside the results, of the same date; None where samples were not logged."""
        date = self.path.stem.removeprefix("results")
        path = self.path.parent / f"samples_{task}{date}.jsonl"
        return path if path.is_file() else None

    def _read_samples(self, path: Path, task: str) -> list[Outcome]:
        """Every measure of every question. Raises `UserError` where the samples are not those of the results."""
        values: dict[str, dict[str, float]] = {}
        keys = TASKS[_task_named(task)].measures
        for key in keys:
            metric, _, kept = _lm_eval_key(task, key).partition(",")
            seen: dict[str, int] = {}
            for number, row in read_rows(path):
                if not isinstance(row, dict) or not isinstance(row.get("doc_hash"), str):
                    raise UserError(f"{path}:{number}: no sample of lm-eval 0.4 (no doc_hash)")
                if row.get("filter", "none") != kept or not isinstance(row.get(metric), int | float):
                    continue  # SQuAD logs what is compared, not what it is worth
                name = row["doc_hash"]
                seen[name] = seen.get(name, 0) + 1  # a question that stands twice
                values.setdefault(f"{task}/{name}/{seen[name]}", {})[key] = float(row[metric])
            found = [value[key] for value in values.values() if key in value]
            reported = self.found["results"].get(task, {}).get(f"{metric},{kept}")
            if found and _number(reported) and abs(sum(found) / len(found) - reported) > 1e-6:
                raise UserError(
                    f"{path}: its mean {metric} is {sum(found) / len(found):.6f}, but {self.path.name} says "
                    f"{reported:.6f}: samples of another call"
                )
        return [Outcome(id=name, value=value, category=task) for name, value in values.items()]


def _measure(suite: str, name: str, tasks: Sequence[str]) -> Measure:
    if name != MACRO:
        return mean(name)
    return average(MACRO, [within(mean("acc"), task, task) for task in tasks])


def _task_of(suite: str) -> str:
    return GROUPS.get(suite, (suite,))[0]


def _lm_eval_key(task: str, key: str) -> str:
    """`acc` -> `acc,none`."""
    known = TASKS[_task_named(task)].measures[key]
    return known if "," in known else f"{known},none"


def _task_named(task: str) -> str:
    """As `TASKS` has it: MMLU's subjects are tasks of lm-eval."""
    return task if task in TASKS else "mmlu"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_lm_eval(path: Path) -> LmEval:
    """Its results file, or the folder that holds one. Raises `UserError` for what is not such a file."""
    if path.is_dir():
        files = sorted(path.rglob("results*.json"))
        if len(files) != 1:
            said = f"holds {len(files)} files results*.json" if files else "holds no results*.json"
            raise UserError(f"{path}: {said}; name one of lm-eval's output" + "".join(f"\n  {f}" for f in files[:5]))
        path = files[0]
    found = _json(path)
    if not isinstance(found.get("results"), dict):
        raise UserError(f"{path}: no results of lm-eval (no `results`)")
    return LmEval(path=path, found=found, sha256=file_sha256(path))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What `align score ... --json` printed, one file per benchmark."""

    paths: tuple[Path, ...]
    found: Mapping[str, tuple[Path, Mapping[str, Mapping[str, Any]]]]
    """Benchmark -> its file and measures by name."""
    sha256: str
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join(path.name for path in self.paths)

    @property
    def models(self) -> tuple[str, ...]:
        return ("model",)

    def leaf(self, model: str, suite: str, measure: str) -> Leaf | str:
        if suite not in self.found:
            return f"{self.name}: not scored on {suite}"
        path, metrics = self.found[suite]
        name = measure or (SUITES[suite].headline if suite in SUITES else headline_of(suite))
        row = metrics.get(name)
        if row is None or row.get("value") is None:
            return f"{path.name}: {suite} has no {name!r}; it has {', '.join(metrics)}"
        lacking = [key for key in ("value", "low", "high", "n", "n_failed") if not _number(row.get(key))]
        if lacking or row["n"] < 1:
            raise UserError(
                f"{path}: {name} has no {', no '.join(lacking) or 'n'}: no number is printed without n and interval"
            )
        low, high = with_width(row["value"], row["low"], row["high"], row["n"])
        return Leaf(value=row["value"], low=low, high=high, n=row["n"], n_failed=row["n_failed"])

    def outcomes(self, model: str, suite: str) -> Sequence[Outcome]:
        return ()


def read_scores(paths: Sequence[Path]) -> Scores:
    """Files of `align score ... --json`. Raises `UserError` for others, and for two of one benchmark."""
    found: dict[str, tuple[Path, Mapping[str, Mapping[str, Any]]]] = {}
    for path in paths:
        row = _json(path)
        name, metrics = row.get("benchmark"), row.get("metrics")
        if not isinstance(name, str) or not isinstance(metrics, list):
            raise UserError(f"{path}: not what `align score ... --json` prints (no benchmark and metrics)")
        if name in found:
            raise UserError(f"{path}: {name} again, after {found[name][0]}; name one file per benchmark")
        found[name] = path, {m["name"]: m for m in metrics if isinstance(m, dict) and "name" in m}
    shas = [file_sha256(path) for path in paths]
    return Scores(paths=tuple(paths), found=found, sha256=shas[0] if len(shas) == 1 else " ".join(shas))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object")
    return found
