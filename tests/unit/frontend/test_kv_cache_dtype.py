"""What keys and values are kept in: what is refused, how many blocks fit, what is estimated."""

from dataclasses import dataclass, field

import pytest

from tdpipe.config.engine_config import EngineConfig
from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.cost.cost_model import decode_load
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.wire import Loaded
from tdpipe.frontend import pipeline_setup
from tdpipe.frontend.pipeline_setup import resolve_setup, setup_key
from tdpipe.frontend.stage_profile_cache import profile_path

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def source():
    return resolve_model(MODEL)


@pytest.fixture(autouse=True)
def no_profiles(monkeypatch):
    monkeypatch.setattr(pipeline_setup, "load_cached_profile", lambda key: None)


def setup_of(source, **settings):
    return resolve_setup(EngineConfig(MODEL, **{"device": "cpu", **settings}), source)


@dataclass
class Stages:
    """Stands in for the executor: each process has that much memory free."""

    free_bytes: list[int]
    allocated: list[int] = field(default_factory=list)

    def loaded(self):
        return [Loaded(rank, 0, free, 0.0) for rank, free in enumerate(self.free_bytes)]

    def allocate(self, num_blocks):
        self.allocated.append(num_blocks)


@pytest.mark.parametrize("kv_cache_memory", [None, "96MiB"])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_twice_the_blocks_fit(source, stored, kv_cache_memory):
    settings = {"pipeline_parallel_size": 2, "partition": "16,14", "block_size": 16}
    blocks = {}
    for dtype in ("auto", "float32", stored):
        setup = setup_of(source, kv_cache_dtype=dtype, kv_cache_memory=kv_cache_memory, **settings)
        stages = Stages([1 << 28, 1 << 28])
        blocks[dtype] = setup.allocate(stages).num_blocks
        assert stages.allocated == [blocks[dtype]]
    assert blocks["auto"] == blocks["float32"] > 0
    assert 0 <= blocks[stored] - 2 * blocks["auto"] <= 1


def test_half_as_much_memory_will_do(source):
    # One request: 80 blocks of 16 tokens, 30 layers x 3 heads x 64 x 2 values of each.
    needed = 80 * 16 * 30 * 3 * 64 * 2 * 2
    settings = {"max_model_len": 1280, "kv_cache_memory": needed}
    assert setup_of(source, kv_cache_dtype="float16", **settings).rounds_kv
    with pytest.raises(CapacityError, match="needs 80 blocks"):
        setup_of(source, **settings)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"dtype": "bfloat16", "kv_cache_dtype": "float16"}, "float16"),
        ({"dtype": "float16", "kv_cache_dtype": "float32"}, "float32"),
        ({"device": "cuda", "kv_cache_dtype": "float16"}, "float16"),
        ({"device": "cuda", "dtype": "float32", "kv_cache_dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_what_is_refused(source, monkeypatch, settings, refused):
    device = settings.get("device", "cpu")
    monkeypatch.setattr(pipeline_setup, "_device", lambda config: device)
    dtype = settings.get("dtype", "float32")
    with pytest.raises(ConfigError, match=f"not {dtype} on {device}; use auto") as caught:
        setup_of(source, **settings)
    assert (caught.value.field, caught.value.value) == ("kv_cache_dtype", refused)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_models_own_is_as_auto(source, dtype):
    setup = setup_of(source, dtype=dtype, kv_cache_dtype=dtype)
    assert (setup.kv_dtype, setup.rounds_kv) == (dtype, False)
    assert setup_of(source, dtype=dtype).kv_dtype == dtype


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_reading_cached_tokens_is_estimated_by_their_bytes(source, quantization):
    def step_s(dtype, tokens):
        setup = setup_of(source, kv_cache_dtype=dtype, quantization=quantization)
        return setup.cost.stage_time_s(0, decode_load(8, tokens))

    def reading_s(dtype):
        return step_s(dtype, 8000) - step_s(dtype, 0)

    assert reading_s("float16") == pytest.approx(reading_s("auto") / 2)
    assert step_s("float16", 0) == step_s("auto", 0)


def test_the_partition_is_made_for_it(source, monkeypatch):
    given = []
    balanced = pipeline_setup.balanced_partition

    def noted(*arguments, **named):
        given.append(named["kv_value_bytes"])
        return balanced(*arguments, **named)

    monkeypatch.setattr(pipeline_setup, "balanced_partition", noted)
    for dtype in ("auto", "bfloat16"):
        setup_of(source, kv_cache_dtype=dtype, pipeline_parallel_size=2)
    assert given == [4, 2]


def test_a_profile_holds_for_one_type_of_cache(source):
    def path(**settings):
        config = EngineConfig(MODEL, **settings)
        return profile_path(setup_key(config, source, "float32", "cpu", (30,)))

    assert path() == path(kv_cache_dtype="float32")
    half = {"kv_cache_dtype": "float16"}
    others = [path(**half), path(kv_cache_dtype="bfloat16"), path(quantization="int8", **half)]
    assert len({path(), path(quantization="int8"), *others}) == 5
