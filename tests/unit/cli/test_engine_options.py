"""Options become settings only where they are given."""

import argparse

import pytest

from tdpipe.cli.engine_options import add_engine_options, engine_settings


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ([], {}),
        (["--no-enable-prefix-caching"], {"enable_prefix_caching": False}),
        (["--enable-prefix-caching", "-p", "2"],
         {"enable_prefix_caching": True, "pipeline_parallel_size": 2}),
        (["--kv-cache-dtype", "float16"], {"kv_cache_dtype": "float16"}),
        (["--enforce-eager"], {"enforce_eager": True}),
        (["--stage-devices", "cuda:0,cuda:0", "--load-format", "dummy"],
         {"stage_devices": "cuda:0,cuda:0", "load_format": "dummy"}),
    ],
)  # fmt: skip
def test_settings_are_those_given(given, settings):
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    assert engine_settings(parser.parse_args(given)) == {**settings, "timeline": None}
