"""Test that text of data, logs and servers cannot control a terminal or a CI agent."""

from __future__ import annotations

import json

import pytest
from template_package import load

harmless_text = load("runtime.harmless_text")

HARMFUL = {
    "color": ("\x1b[31mred", r"\x1b[31mred"),
    "title of a window (OSC)": ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    "C1 control": ("\x9b31mred", r"\x9b31mred"),
    "carriage return": ("safe\rbad", r"safe\rbad"),
    "backspaces": ("bad\b\b\bok", r"bad\x08\x08\x08ok"),
    "override of the direction": ("a\u202etxt.exe", r"a\u202etxt.exe"),
    "isolate of the direction": ("a\u2066b", r"a\u2066b"),
    "mark of the direction": ("a\u200f\u061cb", r"a\u200f\u061cb"),
    "line separator": ("a\u2028::debug::", r"a\u2028::debug::"),
    "half of a character": ("\ud800", r"\ud800"),
    "Azure Pipelines": ("x ##vso[task.complete]", "x # #vso[task.complete]"),
    "Azure Pipelines in capitals": ("##VSO[task.complete]", "# #VSO[task.complete]"),
    "Azure Pipelines after a third #": ("###vso[a]", "## #vso[a]"),
    "Azure Pipelines, format": ("##[error]no", "# #[error]no"),
    "GitHub": ("::set-output name=a::b", ": :set-output name=a::b"),
    "GitHub, another line": ("fine\n ::error::no", "fine\n  : :error::no"),
    "GitHub behind a tab": ("\t::error::no", r"\t::error::no"),
    "GitHub behind a wide blank": ("\u3000::error::no", r"\u3000::error::no"),
}


@pytest.mark.parametrize(("text", "harmless"), HARMFUL.values(), ids=HARMFUL)
def test_command_becomes_visible_text(text: str, harmless: str) -> None:
    assert harmless_text.make_harmless(text) == harmless


@pytest.mark.parametrize(
    "text",
    [
        "ü 🐧 日本語 ‘x’",
        "two\n\tlines",
        "a::b",
        "# ## heading",
        "Family: 👨\u200d👩\u200d👧",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert harmless_text.make_harmless(text) == text


@pytest.mark.parametrize("text", ["##vso[task.complete]", "x ###vso[a]", "##[error]"])
def test_json_holds_no_command_but_the_same_text(text: str) -> None:
    line = harmless_text.format_json({"text": text})
    assert "##" not in line
    assert json.loads(line) == {"text": text}
