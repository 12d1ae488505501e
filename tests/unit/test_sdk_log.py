"""Test what the log of the SDKs has, what is masked in it, and that it may be missing."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import TEMPLATE

RUNTIME = (
    TEMPLATE
    / "{{cookiecutter.project_slug}}"
    / "{{cookiecutter.package_name}}"
    / "runtime"
)
package = ModuleType("logged")
package.__path__ = [str(RUNTIME / "azure")]
sys.modules[package.__name__] = package
sdk_log: Any = importlib.import_module("logged.sdk_log")

KEY = "k" * 86 + "=="
TOKEN = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJhdWQiOiJodHRwcyJ9.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        pytest.param(
            "https://a/b?se=1&sig=a%2Bb&sp=r",
            "https://a/b?se=1&sig=***&sp=r",
            id="signature of a SAS address",
        ),
        pytest.param(
            "https://a/b?sig=abc", "https://a/b?sig=***", id="signature, first"
        ),
        pytest.param(
            "Authorization: Bearer abc.def", "Authorization: Bearer ***", id="header"
        ),
        pytest.param(f"got {TOKEN}, well", "got ***, well", id="token by itself"),
        pytest.param(f"key {KEY} of", "key *** of", id="key of a storage account"),
        pytest.param(
            "AccountName=a;AccountKey=abc;E=c",
            "AccountName=a;AccountKey=***;E=c",
            id="connection string",
        ),
        pytest.param(
            '{"access_token": "abc", "x": 1}',
            '{"access_token": "***", "x": 1}',
            id="JSON",
        ),
        pytest.param(
            "{'accountKey': 'abc'}", "{'accountKey': '***'}", id="Python's dict"
        ),
        pytest.param(
            "a=1&client_secret=abc&b=2", "a=1&client_secret=***&b=2", id="form"
        ),
        pytest.param("my-own-secret!", "***!", id="AZURE_CLIENT_SECRET"),
        pytest.param(
            "GET https://a/b?comp=list 200",
            "GET https://a/b?comp=list 200",
            id="no secret",
        ),
    ],
)
def test_secrets_are_masked(
    monkeypatch: pytest.MonkeyPatch, text: str, masked: str
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "my-own-secret")
    assert sdk_log.mask_secrets(text) == masked


def test_log_file_has_all_that_the_sdk_prints_or_logs(tmp_path: Path) -> None:
    earlier_handlers = logging.getLogger().handlers
    with sdk_log.keep_sdk_output(tmp_path) as log_file:
        print("printed\rthen 10 %\rthen 20 %")
        print("an error, without an end of line", end="", file=sys.stderr)
        logging.getLogger("some.sdk").info("logged %s", "https://a/b?sig=abc")
    text = (tmp_path / log_file).read_text(encoding="utf-8")
    for line in ("printed", "then 20 %", "an error, without", "?sig=***"):
        assert line in text
    assert logging.getLogger().handlers == earlier_handlers


def test_command_works_without_a_log_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file, where the folder should be")
    with sdk_log.keep_sdk_output(tmp_path) as log_file:
        print("printed")
    assert log_file == ""
    assert capsys.readouterr().out == ""
