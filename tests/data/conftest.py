"""Datasets that several tests read."""

from pathlib import Path

import pytest

from tests.data.lerobot_folders import episodes, write_folder


@pytest.fixture(scope="session", params=["v2.1", "v3.0"])
def arm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of either format, not to be changed."""
    return write_folder(tmp_path_factory.mktemp("lerobot") / "arm", episodes(), request.param)
