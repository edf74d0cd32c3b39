"""What simulate and plan have in common: devices, model, workload, and their options."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from tdpipe.config.links_file import load_links
from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.cost.hardware_catalogue import DEVICES, Device, find_device
from tdpipe.cost.model_catalogue import MODELS, find_model
from tdpipe.simulation.predictor_choice import PREDICTOR_NAMES
from tdpipe.simulation.scenario import DEFAULT_REQUESTS
from tdpipe.simulation.workload_models import WORKLOAD_MODELS


def find_gpu(arguments: argparse.Namespace) -> Device:
    """The device of --gpu, with the links of --links.

    Raises:
        ConfigError: there is no such device, or the links cannot be used.
    """
    device = find_device(arguments.gpu)
    if arguments.links is None:
        return device
    return replace(device, measured=load_links(Path(arguments.links)))


def add_simulation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name devices, model and workload."""
    add = parser.add_argument
    add("--gpu", required=True, help=f"one of {', '.join(DEVICES)}")
    links = "what joins them, a file of `tdpipe profile --links` (default: the catalogue's)"
    add("--links", help=links, metavar="FILE")
    models = f"{', '.join(MODELS)}; or a Hugging Face config.json or its folder"
    add("--model", required=True, help=f"one of {models}")
    workloads = f"{', '.join(WORKLOAD_MODELS)}; or a file of requests (CSV, JSON, JSONL)"
    add("--workload", required=True, help=f"one of {workloads}")
    counts = f"how many requests (default {DEFAULT_REQUESTS}, or all of a file)"
    add("--requests", type=int, help=counts, metavar="N")
    add("--seed", type=int, default=0, help="of the requests drawn (default 0)")
    add("--predictor", default="noisy", help=f"{PREDICTOR_NAMES} (default noisy)")
    add(
        "--engine-overhead-ms",
        type=float,
        default=0.0,
        help="time that the engine takes for a batch (default 0)",
        metavar="MS",
    )
    add("--json", action="store_true", help="print all settings and figures as JSON")


def find_shape(name: str) -> ModelShape:
    """The model of that name, or of a config.json or of the folder that holds one.

    Raises:
        ConfigError: there is none, or the file cannot be used.
    """
    place = Path(name)
    if name.lower() in MODELS or not place.exists():
        return find_model(name)
    from tdpipe.execution.models.model_config import ModelConfig

    file = place / "config.json" if place.is_dir() else place
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("model", name, "the folder has no config.json") from None
    except OSError as error:
        raise ConfigError("model", name, f"it cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ConfigError("model", name, "the file is not JSON; give a config.json") from None
    if not isinstance(config, dict):
        raise ConfigError("model", name, "it must hold a JSON object, as a config.json does")
    return ModelConfig.from_hf(config).shape()
