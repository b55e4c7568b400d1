"""What decides the outputs of a model, beside its prompts: the files of its folder, and the template's bytes."""

from __future__ import annotations

from align.models.template import render
from annotate.records import Turn, sha256_of

DECIDING = ("*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt", "vocab.txt")
"""Weights, configuration, tokenizer, processor. READMEs and logs beside them say nothing about the outputs."""

_PROBE = (
    Turn(role="system", text="s"),
    Turn(role="user", text="q"),
    Turn(role="assistant", text="a"),
    Turn(role="user", text="q"),
)
TEMPLATE_SHA256 = sha256_of(render(_PROBE, "a"))
"""Changes with the bytes of the template, and so makes everything stale that was sampled or trained with them."""
