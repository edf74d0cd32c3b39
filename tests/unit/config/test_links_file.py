"""Measured links: what is written is read, what is damaged is refused."""

import json

import pytest

from tdpipe.config.links_file import load_links, save_links
from tdpipe.core.errors import ConfigError
from tdpipe.cost.measured_links import MeasuredLinks, PairTimes

LINKS = MeasuredLinks(
    "nccl", 2, (PairTimes(0, 1, 20e9, 1e-5), PairTimes(1, 0, 10e9, 3e-5)), 5e-5, 8e9
)


def test_a_file_of_links(tmp_path):
    save_links(tmp_path / "links.json", LINKS)
    assert load_links(tmp_path / "links.json") == LINKS
    with pytest.raises(ConfigError, match="cannot be written"):
        save_links(tmp_path / "none" / "links.json", LINKS)


@pytest.mark.parametrize(
    "change",
    [
        {"tdpipe_links": 2},
        {"num_ranks": 3},
        {"pairs": []},
        {"all_reduce_bytes_per_s": 0},
        {"all_reduce_latency_s": -1e-6},
        {"more": 1},
    ],
)
def test_damaged_files(tmp_path, change):
    path = tmp_path / "links.json"
    save_links(path, LINKS)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match="make them with tdpipe profile --links"):
        load_links(path)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_no_such_file(tmp_path, text):
    path = tmp_path / "links.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_links(path)
    path.write_text(text)
    with pytest.raises(ConfigError, match="not links of format 1"):
        load_links(path)
