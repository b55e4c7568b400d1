"""Names and sentences: what suites and models are called, and what a verdict says in words.

sentence(verdicts)   ->  "Visual tuning cost this language model 46 points on two-turn text instructions. DPO won …"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.stats import minimum_detectable_effect

MODELS = {
    "backbone": "language backbone",
    "vlm": "VLM",
    "sft": "SFT on teacher",
    "steerlm": "SteerLM",
    "steerlm_unprompted": "SteerLM, unprompted",
    "steerlm_brief": "SteerLM, brief",
    "rejection": "rejection sampling",
    "dpo": "DPO",
}
SUITES = {
    "text_instructions": "text, two turns",
    "text_noisy_image": "text, noisy image",
    "open_visual": "open visual",
    "pope": "yes/no (POPE)",
    "pope_blank": "yes/no, blank",
    "choice": "multiple choice",
    "coco_captions": "COCO captions",
    "flickr30k": "Flickr30k captions",
}
PROSE = {
    "text_instructions": "two-turn text instructions",
    "text_noisy_image": "text instructions beside an irrelevant image",
    "open_visual": "open-ended questions about images",
    "pope": "yes/no questions about images",
    "choice": "multiple choice about images",
}
BETTER, WORSE = "▲", "▼"
SIGNIFICANT = 0.05
WIDTH_IN_SE = 2 * 1.959964
"""Of a 95% interval."""
_ENDS = ("mean", "low", "high")


def verdict_text(verdicts: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The verdict of a comparison: a model that was tuned otherwise repairs nothing, it does not lose it at first."""
    said: str = row["verdict"]
    return said.replace("repair", "prevent") if row["model"] in verdicts.get("also", ()) else said


def sentence(verdicts: Mapping[str, Any]) -> str:
    """What happened, for the first line: what was lost, what alignment made of it, and what that cost."""
    parts = [_loss(verdicts)]
    also = list(verdicts.get("also", ()))
    aligned = [m for m in verdicts["models"] if m not in ("backbone", "vlm", *also)]
    if aligned:
        main = "dpo" if "dpo" in aligned else aligned[-1]
        parts += [_gain(verdicts, main), _best(verdicts, main), _cost(verdicts, main)]
    for model in also:
        parts += [_prevented(verdicts, model), _cost(verdicts, model)]
    return " ".join(part for part in parts if part)


def _loss(verdicts: Mapping[str, Any]) -> str:
    if not verdicts["regression"]:
        if not any(s["text"] for s in verdicts["suites"]):
            return "No text suite was run: nothing is said of a regression."
        return "" if "backbone" in verdicts["models"] else "No backbone was named: nothing is said of a regression."
    first = verdicts["regression"][0]
    suite = _prose(first["suite"])
    if first["verdict"] == "present":
        lost = points(-first["vlm_minus_backbone"]["mean"])
        return f"Visual tuning cost this language model {lost} points on {suite}."
    if first["verdict"] == "none":
        return f"Visual tuning cost this language model nothing that matters on {suite}."
    return f"A regression by visual tuning on {suite} is not shown."


def _text_row(verdicts: Mapping[str, Any], model: str) -> Mapping[str, Any] | None:
    """The comparison that the sentence is about: the model on the first text suite."""
    text = [s["suite"] for s in verdicts["suites"] if s["text"]]
    rows = [row for row in verdicts["comparisons"] if row["model"] == model and row["suite"] in text[:1]]
    return rows[0] if rows else None


def _gain(verdicts: Mapping[str, Any], model: str) -> str:
    row = _text_row(verdicts, model)
    if row is None:
        return ""
    name, gain = MODELS.get(model, model), f"({signed(row['minus_vlm'])})"
    if row["share"]:
        share, low, high = (None if x is None else f"{x:.0%}" for x in row["share"])
        return f"{name} won back {share} [{low or '?'}, {high or '?'}] of that {gain}."
    said = {
        "repaired": f"{name} repaired it {gain}.",
        "worse": f"{name} made it worse {gain}.",
        "better": f"{name} made it better {gain}.",
        "kept": f"{name} left it as it was {gain}.",
        "nothing to repair": f"There was nothing for {name} to repair {gain}.",
    }
    return said.get(row["verdict"], f"That {name} wins any of it back is not shown {gain}.")


def _prevented(verdicts: Mapping[str, Any], model: str) -> str:
    """The same of a model that was tuned otherwise."""
    row = _text_row(verdicts, model)
    if row is None:
        return ""
    against = f"({signed(row['minus_vlm'])} against the VLM)"
    if row["share"]:
        share, low, high = (None if x is None else f"{x:.0%}" for x in row["share"])
        prevented = f"{share} [{low or '?'}, {high or '?'}] of that is prevented {against}."
        return f"Tuned otherwise, {model} loses less: {prevented}"
    said = {
        "repaired": f"Tuned otherwise, {model} does not lose it {against}.",
        "worse": f"Tuned otherwise, {model} loses more {against}.",
        "better": f"Tuned otherwise, {model} is better {against}.",
        "nothing to repair": f"There was nothing for {model} to prevent {against}.",
    }
    return said.get(row["verdict"], f"That {model}, tuned otherwise, prevents any of it is not shown {against}.")


def _best(verdicts: Mapping[str, Any], main: str) -> str:
    """Another method that did better than the VLM for sure, and more so than the main one: not to be kept quiet."""
    aligned = [m for m in verdicts["models"] if m not in verdicts.get("also", ())]
    gains = {m: row["minus_vlm"] for m in aligned if (row := _text_row(verdicts, m))}
    better = {m: d for m, d in gains.items() if mark(d) == BETTER}
    best = max(better, key=lambda m: better[m]["mean"], default=None)
    if best is None or best == main or (main in better and better[main]["mean"] >= better[best]["mean"]):
        return ""
    return f"{MODELS.get(best, best)} gained more ({signed(better[best])})."


def _cost(verdicts: Mapping[str, Any], model: str) -> str:
    text = {s["suite"] for s in verdicts["suites"] if s["text"]}
    rows = [row for row in verdicts["comparisons"] if row["model"] == model and row["suite"] not in text]
    losses = [row for row in rows if row["verdict"] == "worse"]
    if losses:
        listed = ", ".join(f"{_prose(row['suite'])} {signed(row['minus_vlm'])}" for row in losses)
        return f"It cost {MODELS.get(model, model)} {listed}."
    return f"On images {MODELS.get(model, model)} is nowhere significantly worse." if rows else ""


def label(suite: str) -> str:
    """Over a column: `pope+gaussian_noise_3` -> `yes/no (POPE), gaussian noise 3`."""
    clean, _, corruption = suite.partition("+")
    return ", ".join(filter(None, (SUITES.get(clean, clean.replace("_", " ")), corruption.replace("_", " "))))


def _prose(suite: str) -> str:
    return PROSE.get(suite, suite.replace("_", " "))


def points(value: float) -> str:
    """0.457 -> 46: hundredths of the scale."""
    return f"{100 * value:.0f}"


def signed(difference: Mapping[str, Any] | None) -> str:
    """`+0.08 [+0.03, +0.13]`"""
    if difference is None:
        return "–"
    # rounded before it is signed: no −0.00
    mean, low, high = (
        x if x is None else f"{round(x, 2) + 0.0:+.2f}".replace("-", "−") for x in map(difference.get, _ENDS)
    )
    return f"{mean}" if low is None or high is None else f"{mean} [{low}, {high}]"


def p_text(p: float) -> str:
    return "p<0.001" if p < 0.001 else f"p={p:.3f}"


def mde_text(difference: Mapping[str, Any]) -> str:
    """`MDE .07`: the smallest true difference that so many questions would show in 8 of 10 tries."""
    found = difference.get("mde")
    if found is None and None not in (difference["low"], difference["high"]):  # a run of before it was recorded
        found = minimum_detectable_effect((difference["high"] - difference["low"]) / WIDTH_IN_SE)
    return "" if found is None else f"MDE {short(found)}"


def taxes(verdicts: Mapping[str, Any]) -> list[str]:
    """What alignment cost where it was not meant to change anything, and another tuning beside the VLM's; by model."""
    lines = []
    for row in verdicts.get("tax", ()):
        name, n = MODELS.get(row["model"], row["model"]), row["n_suites"]
        lost = ", ".join(f"{SUITES.get(s, s)} {signed(d)}" for s, d in row["lost"].items())
        open_ = f", not shown on {row['n_not_shown']}" if row["n_not_shown"] else ""
        told = f"{lost}; {points(row['sum'])} points of the scale in all" if lost else "none shown"
        lines.append(f"{name}: {told} (significantly worse on {len(row['lost'])} of {n} suites{open_})")
    return lines


def mark(difference: Mapping[str, Any] | None) -> str:
    """The sign of a difference that is significant; p is Holm-adjusted already."""
    if difference is None or difference["p"] >= SIGNIFICANT or not difference["mean"]:
        return ""
    return BETTER if difference["mean"] > 0 else WORSE


def short(value: float) -> str:
    """0.81 as .81, 1.0 as 1.0: seven numbers have to stand side by side."""
    text = f"{value:.2f}"
    return "1.0" if text == "1.00" else text.removeprefix("0") if text.startswith("0.") else text
