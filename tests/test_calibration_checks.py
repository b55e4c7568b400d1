"""Planted checks on the calibration card: duplicates, wrong images, no images."""

from __future__ import annotations

from typing import Any

import pytest
from graded import SUM, card_of, check, findings, known, levels, twenty

from align.calibration.checks import image_verdict
from annotate.errors import RecordError


def test_an_annotator_that_does_not_look():
    records = twenty()
    card = card_of(records, [check("blind", r) for r in records])
    found = card["checks"]["blind"]
    assert known(found["measures"]["correctness"]["mean_change"]) == (0.0, 20)
    assert found["changed"]["value"] == 0.0 and found["changed"]["high"] == 0.1684  # 1 - 0.025^(1/20)
    assert found["verdict"]["depends"] == "no"
    assert found["verdict"]["text"].startswith("scores do not depend on the image (correctness without it +0.00")
    assert findings(card)[0].topic == "image withheld" and findings(card)[0].level == "bad"


def test_an_annotator_that_looks():
    records = twenty()
    card = card_of(records, [check("wrong_image", r, lambda name, s: s - (name == "correctness")) for r in records])
    found = card["checks"]["wrong_image"]
    assert found["verdict"]["depends"] == "yes" and levels(card)["wrong image"] == "good"
    assert known(found["measures"]["correctness"]["mean_change"]) == (-1.0, 20)
    assert known(found["measures"]["helpfulness"]["mean_change"]) == (0.0, 20)
    assert known(found["measures"][SUM]["mean_change"]) == (-1.0, 20) and found["changed"]["value"] == 1.0
    assert card["checks"]["blind"] == {"n": 0, "why": "not asked for (annotate.checks.blind)"}


def test_three_prompts_are_no_verdict():
    records = twenty()
    card = card_of(records, [check("blind", r) for r in records[:3]])
    assert card["checks"]["blind"]["verdict"]["depends"] == "not shown" and levels(card)["image withheld"] == "mind"


def test_a_prompt_that_has_no_scores_to_compare_with_is_counted():
    records = twenty()
    card = card_of(records[:15], [check("blind", r) for r in records])
    assert (card["checks"]["blind"]["n"], card["checks"]["blind"]["n_unmatched"]) == (15, 5)
    gone = card_of(records[:5], [check("blind", r) for r in records[5:]])["checks"]["blind"]
    assert gone["why"] == "pass 0 scored none of these completions" and gone["n_unmatched"] == 15


def bounded(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 40}


@pytest.mark.parametrize(
    ("change", "size", "noise", "depends"),
    [
        (bounded(-1.0, -1.2, -0.8), bounded(1.0, 0.8, 1.2), None, "yes"),
        (bounded(-0.1, -0.15, -0.05), bounded(0.1, 0.05, 0.15), None, "hardly"),  # surely, and surely little
        (bounded(-0.3, -0.7, 0.1), bounded(0.9, 0.8, 1.0), None, "not shown"),  # anything may be
        (bounded(0.0, -0.1, 0.1), bounded(0.1, 0.05, 0.2), None, "no"),
        (bounded(0.0, -0.1, 0.1), bounded(0.9, 0.8, 1.0), None, "not shown"),  # up and down: noise, or the image?
        (bounded(0.0, -0.1, 0.1), bounded(0.9, 0.8, 1.0), bounded(0.85, 0.8, 0.9), "no"),  # it is noise
        (bounded(0.0, -0.1, 0.1), bounded(0.9, 0.8, 1.0), bounded(0.2, 0.1, 0.3), "yes"),  # it is the image
    ],
)
def test_verdicts_on_images(change, size, noise, depends):
    found = {"mean_change": change, "mean_absolute_change": size}
    said = image_verdict("blind", "correctness", found, margin=0.25, noise=noise, n=40)
    assert said["depends"] == depends, said["text"]


def test_duplicates():
    """Twelve prompts; in the first three the second copy gets one point less in each attribute."""
    records = twenty()[:12]
    lines = []
    for i, record in enumerate(records):
        line = check("duplicate", record)
        line["shown"].append(line["shown"][0])
        line["scores"].append({name: score - (i < 3) for name, score in line["scores"][0].items()})
        lines.append(line)
    card = card_of(records, lines)
    found = card["checks"]["duplicate"]["measures"]
    assert known(found["correctness"]["equal"]) == known(found[SUM]["equal"]) == (0.75, 12)
    assert found["correctness"]["mean_absolute_difference"]["value"] == 0.25
    assert found["correctness"]["later_minus_earlier"]["value"] == -0.25
    assert found[SUM]["mean_absolute_difference"]["value"] == 0.75
    assert levels(card)["duplicates"] == "mind" and card["outcomes"]["answered_checks"] == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "odd"}, "kind 'odd' is none of duplicate, wrong_image, blind"),
        ({"scores": []}, "0 scores for 4 completions"),
        ({"kind": "duplicate"}, "0 completions are shown twice in a check of kind duplicate"),
    ],
)
def test_a_check_that_does_not_hold_together_is_refused(change, said):
    record = twenty()[0]
    with pytest.raises(RecordError, match=said):
        card_of([record], [check("blind", record) | change])
