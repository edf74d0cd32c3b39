"""Models on catalogue devices: what fits, what tensor parallelism costs."""

import pytest

from tdpipe.core.errors import CapacityError, ConfigError
from tdpipe.cost.collectives import Link, all_reduce_time_s, transfer_time_s
from tdpipe.cost.cost_model import decode_load, prefill_load
from tdpipe.cost.hardware_catalogue import DEVICES, GIB, find_device
from tdpipe.cost.model_catalogue import MODELS, find_model
from tdpipe.cost.placement import place


def test_parameters_are_those_of_the_names():
    billions = {name: (shape.num_layers * shape.layer_params + 2 * shape.vocab_params) / 1e9
                for name, shape in MODELS.items()}  # fmt: skip
    assert billions["llama-2-13b"] == pytest.approx(13.0, rel=0.01)
    assert billions["qwen2.5-32b"] == pytest.approx(32.8, rel=0.01)
    assert billions["llama-2-70b"] == pytest.approx(69.0, rel=0.01)
    assert billions["llama-3.1-8b"] == pytest.approx(8.0, rel=0.01)


def test_every_device_has_a_source():
    assert all(device.source and device.memory_bytes >= 24 * GIB for device in DEVICES.values())


def test_blocks_left_beside_the_weights():
    placement = place(find_model("llama-2-13b"), find_device("l20"), 4)
    assert placement.num_devices == 4 and sum(placement.layers) == 40
    most = max(placement.layers)
    block = most * 16 * 2 * 40 * 128 * 2
    free = 0.9 * 48 * GIB - GIB - placement.weight_bytes(placement.layers.index(most))
    assert placement.num_blocks() == pytest.approx(free / block, rel=0.02)


def test_what_does_not_fit_names_the_memory():
    with pytest.raises(CapacityError, match=r"need \d+\.\d GiB on a device") as caught:
        place(find_model("llama-2-70b"), find_device("L20"), 1).num_blocks()
    assert "1 x L20 (48 GiB)" in str(caught.value)


def test_all_reduce_is_a_ring():
    link = Link(20e9, 1e-5, 15e9)
    assert all_reduce_time_s(link, 1, 1e6) == 0
    assert all_reduce_time_s(link, 4, 15e9) == pytest.approx(1.5 + 6e-5)
    assert transfer_time_s(link, 20e9) == pytest.approx(1.00001)


def test_tensor_parallelism_divides_work_and_adds_communication():
    shape, card = find_model("qwen2.5-32b"), find_device("A100-PCIe-80G")
    whole, halves = place(shape, card, 1).cost(), place(shape, card, 1, 2).cost()
    load = prefill_load(0, 2048)
    communication_s = halves.communication_time_s(0, load)
    rest_s = halves.stage_time_s(0, load) - communication_s
    assert rest_s == pytest.approx(whole.stage_time_s(0, load) / 2, rel=0.01)
    assert communication_s > 0.1 * rest_s
    assert whole.communication_time_s(0, load) == 0
    assert place(shape, card, 1, 8).cost().stage_time_s(0, decode_load(1, 100)) > 0


def test_unknown_names():
    with pytest.raises(ConfigError, match="A100-PCIe-80G"):
        find_device("TPU")
    with pytest.raises(ConfigError, match=r"qwen2\.5-32b"):
        find_model("gpt-9")
