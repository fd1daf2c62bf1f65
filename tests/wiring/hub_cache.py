"""A hub that is its cache on this machine alone."""

from pathlib import Path

import pytest


def folder_in_cache(model_id: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of the model have to lie, not there yet; from now on the hub is that cache."""
    home, commit = cache / f"models--{model_id.replace('/', '--')}", "0" * 40
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots").mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return home / "snapshots" / commit
