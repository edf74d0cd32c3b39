"""A process that has joined a Ray cluster already, and is asked to join one; Ray is made up."""

import sys
from types import SimpleNamespace

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.execution.ray_cluster import RayCluster


@pytest.fixture
def joined(monkeypatch):
    context = SimpleNamespace(gcs_address="127.0.0.1:6379")
    fake = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", fake)


@pytest.mark.parametrize("address", [None, "auto", "127.0.0.1:6379", "localhost:6379"])
def test_the_same_cluster_is_shared(joined, address):
    RayCluster(address).close()  # which leaves it to who has joined it


@pytest.mark.parametrize("address", ["127.0.0.1:6380", "10.0.0.9:6379", "local"])
def test_another_one_is_refused(joined, address):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:6379") as caught:
        RayCluster(address)
    assert caught.value.field == "ray_address"
