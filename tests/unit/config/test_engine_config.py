"""Settings are refused one by one, with field, value and fix."""

from pathlib import Path

import pytest

from tdpipe.config.engine_config import EngineConfig
from tdpipe.config.memory_size import parse_memory_size
from tdpipe.core.errors import ConfigError
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.prediction.online import OnlinePredictor
from tdpipe.prediction.oracle import OraclePredictor

BAD = [
    ("model", ""), ("pipeline_parallel_size", 0), ("pipeline_parallel_size", "2"),
    ("scheduler", "fastest"), ("dtype", "int3"), ("device", "tpu"), ("kv_cache_memory", "lots"),
    ("quantization", "int3"), ("load_format", "safetensors"), ("stage_devices", "cuda:0,cuda:0"),
    ("kv_cache_memory", 0), ("kv_cache_memory", True), ("gpu_memory_utilization", 0),
    ("gpu_memory_utilization", 1.5), ("max_model_len", 1), ("partition", "a,b"),
    ("length_predictor", "crystal-ball"), ("length_predictor", "constant:x"),
    ("length_predictor", 7), ("block_size", 0), ("max_num_seqs", -1),
    ("max_num_batched_tokens", 0), ("threads_per_stage", 0), ("seed", 1.5),
    ("enable_prefix_caching", "no"), ("kv_cache_dtype", "fp8"), ("kv_cache_dtype", None),
    ("enforce_eager", 1),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BAD)
def test_bad_values(field, value):
    with pytest.raises(ConfigError) as caught:
        EngineConfig(**{"model": "m", field: value})
    assert caught.value.field == field and "\n" not in str(caught.value)


def test_memory_sizes():
    assert parse_memory_size("f", "1GiB") == 2**30
    assert parse_memory_size("f", "1.5 MB") == 1_500_000
    assert parse_memory_size("f", 77) == 77


def test_derived_values():
    config = EngineConfig("m", partition="16, 14", kv_cache_memory="2KiB")
    assert config.layers() == (16, 14) and config.kv_bytes() == 2048
    assert isinstance(config.predictor(), OnlinePredictor) and config.predictor_file() is None
    cautious = EngineConfig("m", length_predictor="max-tokens").predictor()
    assert isinstance(cautious, MaxTokensPredictor)
    trained = EngineConfig("m", length_predictor="lengths.safetensors")
    assert trained.predictor_file() == Path("lengths.safetensors")
    assert isinstance(trained.predictor(), OnlinePredictor)
    constant = EngineConfig("m", length_predictor="constant:9").predictor()
    assert isinstance(constant, ConstantPredictor) and constant.num_tokens == 9
    oracle = OraclePredictor([1])
    assert EngineConfig("m", length_predictor=oracle).predictor() is oracle
    assert EngineConfig("m", length_predictor=oracle).recorded()["length_predictor"] == (
        "OraclePredictor"
    )
