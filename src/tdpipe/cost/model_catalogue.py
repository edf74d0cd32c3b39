"""Shapes of well-known models, for plans and simulations without their files.

From the models' published config.json files.
"""

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape

MODELS = {
    "smollm2-135m": ModelShape(30, 576, 1536, 9, 3, 64, 49152, True),
    "llama-3.1-8b": ModelShape(32, 4096, 14336, 32, 8, 128, 128256, False),
    "llama-2-13b": ModelShape(40, 5120, 13824, 40, 40, 128, 32000, False),
    "qwen2.5-32b": ModelShape(64, 5120, 27648, 40, 8, 128, 152064, False),
    "qwen3-32b": ModelShape(64, 5120, 25600, 64, 8, 128, 151936, False),
    "llama-2-70b": ModelShape(80, 8192, 28672, 64, 8, 128, 32000, False),
    "llama-3.1-70b": ModelShape(80, 8192, 28672, 64, 8, 128, 128256, False),
}


def find_model(name: str) -> ModelShape:
    """The shape of that name, in any case.

    Raises:
        ConfigError: there is none.
    """
    shape = MODELS.get(name.lower())
    if shape is None:
        raise ConfigError("model", name, f"use one of {', '.join(MODELS)}, or a config.json")
    return shape
