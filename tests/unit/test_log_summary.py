"""Test that the screen reads logs of any size in little memory, and shows what is done."""

from __future__ import annotations

import time
import tracemalloc
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from template_package import load

commands = load("runtime.commands")
run_result = load("runtime.local.run_result")
screen = load("runtime.local.screen")

SIZE = 20_000_000  # bytes


@pytest.mark.parametrize(
    "line", [b"x" * 99 + b"\n", b"note: " + b"y" * 94], ids=["lines", "one line"]
)
def test_large_log_does_not_fill_the_memory(line: bytes, tmp_path: Path) -> None:
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


def wait_for(text: str, output: StringIO) -> None:
    """Wait until a text has been printed. Fails after ten seconds."""
    deadline = time.monotonic() + 10
    while text not in output.getvalue():
        assert time.monotonic() < deadline, output.getvalue()
        time.sleep(0.01)


def test_without_a_terminal_a_slow_step_prints_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "SECONDS_BEFORE_FIRST_LINE", 0.01)
    monkeypatch.setattr(screen, "SECONDS_BETWEEN_LINES", 0.01)
    output = StringIO()
    log = tmp_path / "log.txt"
    with screen.Screen(Console(file=output)).show_progress("train", tmp_path):
        wait_for("train: still at work after", output)
        log.write_text("progress: try 1 of 2\n", encoding="utf-8")
        wait_for("train: try 1 of 2\n", output)
        time.sleep(0.1)
        log.write_text("mini-batches done: all\n", encoding="utf-8")
        time.sleep(0.1)
        log.write_text("mini-batches done: 3/4\n", encoding="utf-8")
        wait_for("train: 3 of 4 mini-batches\n", output)
    assert len(output.getvalue().splitlines()) == 3


def test_without_a_terminal_a_quick_step_prints_nothing(tmp_path: Path) -> None:
    output = StringIO()
    with screen.Screen(Console(file=output)).show_progress("train", tmp_path):
        pass
    assert output.getvalue() == ""


def test_long_name_of_an_output_is_apart_from_its_folder() -> None:
    step = run_result.StepResult("a", "ran", outputs={"monitoring_report": "runs/a"})
    result = run_result.RunResult("training", "completed", "runs", [step])
    output = StringIO()
    commands._print_results(result, screen.Screen(Console(file=output)))
    assert output.getvalue() == "monitoring_report runs/a\n"
