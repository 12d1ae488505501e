"""Which files of a data folder are hashed for local runs and uploaded to Azure ML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import template_package

list_files = template_package.load("runtime.files").list_files


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in (
        "a.csv",
        "year=2026/b.csv",
        "_delta/c.csv",
        ".d.csv",
        ".ipynb_checkpoints/a-checkpoint.csv",
        "year=2026/.git/objects/e.csv",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    assert sorted(list_files(tmp_path)) == ["_delta/c.csv", "a.csv", "year=2026/b.csv"]


@pytest.mark.skipif(os.name == "nt", reason="links need special rights there")
def test_circular_links_are_followed_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "north").mkdir(parents=True)
    (data / "north" / "a.csv").touch()
    (data / "south").symlink_to(data / "north")
    (data / "north" / "all").symlink_to(data)

    assert list(list_files(data)) == ["north/a.csv"]
