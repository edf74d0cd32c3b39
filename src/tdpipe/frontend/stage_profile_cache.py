"""Measured profiles in the user's cache folder, one file for each model, partition and machine."""

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path

from tdpipe.config.profile_file import ProfileKey, load_profile, save_profile
from tdpipe.core.errors import ConfigError
from tdpipe.cost.profiled_cost import ProfiledCost
from tdpipe.execution.models.model_source import ModelSource, cache_folder
from tdpipe.frontend.host_processor import cpu_name, cpu_vectors

# Of a card's multiprocessors, the percentage that a process may use under NVIDIA's Multi-Process
# Service, which the stages inherit.
MPS_SHARE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


def profile_key(
    source: ModelSource,
    dtype: str,
    device: str,
    layers: tuple[int, ...],
    threads_per_stage: int,
    tensor_parallel_size: int = 1,
) -> ProfileKey:
    """What a profile of this pipeline holds for; every "auto" resolved."""
    return ProfileKey(
        model=source.name,
        shape=source.config.shape(),
        dtype=dtype,
        device=device,
        layers=layers,
        threads_per_stage=threads_per_stage,
        machine=machine_name(device),
        tensor_parallel_size=tensor_parallel_size,
    )


def profile_path(key: ProfileKey) -> Path:
    """Where the cache keeps a profile."""
    told = repr(sorted(asdict(replace(key, model="")).items()))
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    return cache_folder() / "profiles" / f"{'-'.join(map(str, key.layers))}-{digest}.json"


def load_cached_profile(key: ProfileKey) -> ProfiledCost | None:
    """The profile measured before, or None; a damaged file counts as none."""
    try:
        return load_profile(profile_path(key), key)[1]
    except ConfigError:
        return None


def store_profile(key: ProfileKey, cost: ProfiledCost) -> Path:
    """Keep a profile; returns its file.

    Raises:
        ConfigError: the cache folder cannot be written.
    """
    path = profile_path(key)
    save_profile(path, key, cost)
    return path


def machine_name(device: str) -> str:
    """The processor or card that stages run on, how many there are, and what part may be used.

    Args:
        device: cpu, cuda, or the names of the stages' own.
    """
    if device.startswith("cpu"):
        return f"{cpu_name()} ({cpu_vectors()}), {len(os.sched_getaffinity(0))} cores"
    import torch

    name = f"{torch.cuda.get_device_name(0)} x {torch.cuda.device_count()}"
    share = os.environ.get(MPS_SHARE)
    return f"{name}, {share}% of the multiprocessors" if share else name
