"""Triton attention without a GPU: its decisions here, its results in the interpreter, and whether
its kernels compile for devices that are not there.
"""

import os
from types import SimpleNamespace

import pytest
import torch

from tdpipe.execution.attention import choose_attention as choice
from tdpipe.execution.attention.attention_backend import AttentionMetadata, PrefillSpan
from tdpipe.execution.attention.torch_attention import TorchAttention
from tdpipe.execution.kv_cache import KVCache
from triton_process import run_cases

triton = pytest.importorskip("triton")

from tdpipe.execution.attention import triton_attention  # noqa: E402
from tdpipe.execution.attention.triton_attention import (  # noqa: E402
    TritonAttention,
    num_splits,
    padded,
    prefill_tiles,
    tile_tokens,
)

CPU = torch.device("cpu")
# Shared memory that one program may have: the least of all devices since compute capability 8.0.
LEAST_SHARED_BYTES = 99 * 1024
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def test_results_in_the_interpreter():
    run_cases("triton_cases.py", TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_results_on_a_device():
    run_cases("triton_cases.py")


@pytest.mark.parametrize(
    ("programs", "longest_tokens", "multiprocessors", "splits"),
    [
        (1, 100_000, 1, 2),  # two programs a multiprocessor
        (8, 100_000, 132, 32),  # 33 wanted, rounded down to a power of two
        (132, 100_000, 132, 2),
        (133, 100_000, 132, 1),
        (5000, 100_000, 132, 1),
        (1, 100_000, 132, 64),  # no more than one program combines
        (8, 255, 132, 1),  # a split has at least 128 tokens
        (8, 256, 132, 2),
        (8, 1000, 132, 4),
        (8, 1, 132, 1),
    ],
)
def test_number_of_splits(programs, longest_tokens, multiprocessors, splits):
    assert num_splits(programs, longest_tokens, multiprocessors) == splits


def test_prefill_tiles():
    """A prompt of 5 tokens, and a chunk of 3 after 10, in tiles of 2 rows."""
    prompt, chunk = torch.arange(100, 105), torch.arange(200, 213)
    spans = [PrefillSpan(0, 5, 5, prompt), PrefillSpan(5, 3, 13, chunk)]
    tiles = prefill_tiles(spans, 2, CPU)
    # first row, rows, position of the first row, start of the context; the furthest back first
    assert tiles.tiles.tolist() == [
        [7, 1, 12, 5],
        [5, 2, 10, 5],
        [4, 1, 4, 0],
        [2, 2, 2, 0],
        [0, 2, 0, 0],
    ]
    assert tiles.tiles.dtype == torch.int32
    assert tiles.slots.tolist() == [*range(100, 105), *range(200, 213)]


def test_sizes_of_tiles():
    assert [padded(size) for size in (1, 8, 17, 80, 128)] == [16, 16, 32, 128, 128]
    assert tile_tokens(64, torch.bfloat16) == 64
    assert tile_tokens(128, torch.bfloat16) == 64
    assert tile_tokens(128, torch.float32) == 32
    assert tile_tokens(1024, torch.float32) == 16


def test_choice(monkeypatch):
    cuda = torch.device("cuda", 0)
    properties = SimpleNamespace(multi_processor_count=7)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert isinstance(choice.choose_attention(torch.bfloat16, cuda), TritonAttention)
    assert isinstance(choice.choose_attention(torch.bfloat16, CPU), TorchAttention)
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    assert isinstance(choice.choose_attention(torch.bfloat16, cuda), TorchAttention)


class CompileOnly:
    """Stands in for a kernel: a launch compiles it for another device instead of running it."""

    def __init__(self, kernel, capability, shared_bytes):
        self.kernel, self.capability, self.shared_bytes = kernel, capability, shared_bytes

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, **settings):
        names = self.kernel.arg_names
        signature = dict.fromkeys(names, "constexpr")
        for name, argument in zip(names, arguments, strict=False):
            kinds = {int: "i32", float: "fp32"}
            is_tensor = isinstance(argument, torch.Tensor)
            signature[name] = POINTERS[argument.dtype] if is_tensor else kinds[type(argument)]
        constants = {name: settings.pop(name) for name in names if name in settings}
        assert len(arguments) + len(constants) == len(names)
        target = triton.backends.compiler.GPUTarget("cuda", self.capability, 32)
        source = triton.compiler.ASTSource(self.kernel, signature, constants)
        compiled = triton.compile(source, target=target, options=settings)
        self.shared_bytes[self.kernel.__name__] = compiled.metadata.shared


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="compiles, and does not interpret")
@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability"),
    [(torch.bfloat16, 128, 80), (torch.float16, 80, 90)],
)
def test_kernels_compile(dtype, head_dim, capability, monkeypatch, tmp_path):
    """The interpreter takes what the compiler may not, and knows no limit of shared memory."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shared_bytes = {}
    for name in ("write_kernel", "prefill_kernel", "decode_kernel", "combine_kernel"):
        kernel = getattr(triton_attention, name)
        stand_in = CompileOnly(kernel, capability, shared_bytes)
        monkeypatch.setattr(triton_attention, name, stand_in)
    cache = KVCache(1, 20, 16, 2, head_dim, dtype, CPU)
    meta = AttentionMetadata(
        num_prefill_tokens=3,
        prefills=[PrefillSpan(0, 3, 3, torch.arange(3))],
        slot_mapping=torch.arange(4),
        decode_lengths=torch.tensor([300]),
        block_tables=torch.zeros(1, 19, dtype=torch.int32),
        block_size=16,
    )
    query = torch.zeros(4, 8, head_dim, dtype=dtype)
    key = torch.zeros(4, 2, head_dim, dtype=dtype)
    TritonAttention(100).forward(0, query, key, key, cache, meta, None)
    assert len(shared_bytes) == 4
    assert max(shared_bytes.values()) <= LEAST_SHARED_BYTES, shared_bytes
