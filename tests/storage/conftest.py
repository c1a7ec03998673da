"""Stores to test with: on a disk, and on a real S3 server where one is to be had."""

import pytest

from posttrain.storage.store import open_store
from tests.s3 import place, s3, s3_server

__all__ = ["place", "s3", "s3_server"]


@pytest.fixture
def store(place):
    return open_store(place)


@pytest.fixture
def disk(tmp_path):
    return open_store(str(tmp_path / "store"))
