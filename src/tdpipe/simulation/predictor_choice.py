"""Length predictors by name for simulated runs, where the true output lengths are known."""

from collections.abc import Sequence

from tdpipe.core.errors import ConfigError
from tdpipe.prediction.bucket_noise import BucketNoisePredictor
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.length_predictor import LengthPredictor
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.prediction.oracle import OraclePredictor

# What the paper's classifier reaches on its own test set.
PAPER_ACCURACY = 0.58
PREDICTOR_NAMES = "oracle, noisy, noisy:ACCURACY, constant, constant:TOKENS or max-tokens"


def make_predictor(name: str, output_tokens: Sequence[int]) -> LengthPredictor:
    """The predictor of that name for requests of these true lengths, in order of request_id.

    "noisy" is right about the class of a request's length as often as the paper's classifier,
    "noisy:0.7" for a share of 0.7; "constant" forecasts the true mean, "constant:N" N tokens.

    Raises:
        ConfigError: there is no such predictor, or its number cannot be used.
    """
    kind, _, number = name.partition(":")
    if kind == "noisy":
        accuracy = _number(name, number) if ":" in name else PAPER_ACCURACY
        return BucketNoisePredictor(output_tokens, accuracy)
    if kind == "constant":
        mean = sum(output_tokens) / len(output_tokens)
        return ConstantPredictor(round(_number(name, number) if ":" in name else mean))
    if name == "oracle":
        return OraclePredictor(output_tokens)
    if name == "max-tokens":
        return MaxTokensPredictor()
    raise ConfigError("predictor", name, f"use {PREDICTOR_NAMES}")


def check_predictor(name: str) -> None:
    """Refuse a name that `make_predictor` would.

    Raises:
        ConfigError: there is no such predictor, or its number cannot be used.
    """
    make_predictor(name, [1])


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError("predictor", name, f"use {PREDICTOR_NAMES}") from None
    if not 0 <= value < 1e9:  # also refuses nan
        raise ConfigError("predictor", name, f"use {PREDICTOR_NAMES}")
    return value
