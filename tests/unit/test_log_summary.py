"""The end and the notes of a log are found in little memory, however large the log is."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from template_package import load

screen = load("runtime.local.screen")

SIZE = 20_000_000  # bytes


@pytest.mark.parametrize(
    "line", [b"x" * 99 + b"\n", b"note: " + b"y" * 94], ids=["lines", "one line"]
)
def test_a_large_log_does_not_fill_the_memory(line: bytes, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(line * (SIZE // len(line)) + b"\nnote: the last\ndone\n")
    tracemalloc.start()
    try:
        summary = screen.summarize_log(log)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < SIZE / 20
    assert summary.last_lines[-2:] == ["note: the last", "done"]
    assert summary.notes[-1] == "note: the last"
