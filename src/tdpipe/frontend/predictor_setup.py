"""Finds the length predictor that was trained for a model, or that the user names."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tdpipe.config.engine_config import EngineConfig
from tdpipe.core.errors import ConfigError
from tdpipe.execution.models.model_source import ModelSource, cache_folder
from tdpipe.frontend.intake_forecasts import IntakeForecasts
from tdpipe.lengths.learned_predictor import LearnedPredictor
from tdpipe.lengths.model_identity import model_digest
from tdpipe.lengths.predictor_file import load_predictor
from tdpipe.text.tokenizer import Tokenizer

log = logging.getLogger("tdpipe")


@dataclass(frozen=True, slots=True)
class PredictorSetup:
    """A trained predictor for a run, or none.

    Attributes:
        learned: forecasts requests before they reach the engine.
        head_file: where the last stage finds what it forecasts with after the prefill.
        limits_tell: see IntakeForecasts.
    """

    learned: LearnedPredictor | None = None
    head_file: Path | None = None
    limits_tell: bool = True

    @property
    def forecasts(self) -> IntakeForecasts:
        """What is told of requests before they reach the engine."""
        return IntakeForecasts(self.learned, self.limits_tell)

    @property
    def kind(self) -> str | None:
        """The trained predictor's kind."""
        return self.learned.note.kind if self.learned is not None else None


def trained_file(digest: str) -> Path:
    """Where `tdpipe lengths train` keeps the predictor of a model."""
    return cache_folder() / "lengths" / f"{digest}.safetensors"


def resolve_predictor(
    config: EngineConfig, source: ModelSource, tokenizer: Callable[[], Tokenizer]
) -> PredictorSetup:
    """The file that the settings name or, for auto, the one trained for this model, if any.

    A file in the cache that cannot be used is logged and passed over: the run learns online.

    Raises:
        ConfigError: the file that the user named cannot be used.
    """
    named = config.predictor_file()
    if named is None and config.length_predictor != "auto":
        return PredictorSetup(limits_tell=config.length_predictor == "online")
    digest = model_digest(source.folder)
    path = named or trained_file(digest)
    if named is None and not path.is_file():
        return PredictorSetup()
    try:
        learned = load_predictor(path, digest, lambda ids: tokenizer().decode(ids))
    except ConfigError as error:
        if named is not None:
            raise
        log.warning("%s; lengths are learned while the run goes on", error)
        return PredictorSetup()
    return PredictorSetup(learned, path if learned.head is not None else None)
