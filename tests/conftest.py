"""What several test files need and none changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny LLaVA of `tiny_llava.py`, for all tests of a process: to be read; who spoils it spoils a copy."""
    pytest.importorskip("torch")
    from tiny_llava import save_tiny_llava

    made = save_tiny_llava(tmp_path_factory.mktemp("llava"))
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    yield made
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before, f"a test wrote into {made}"
