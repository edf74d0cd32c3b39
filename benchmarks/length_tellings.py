"""What length predictors say of a table's test prompts: entered with files, left with forecasts."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tdpipe.execution.models.model_source import resolve_model
from tdpipe.execution.prompt_states import prompt_states
from tdpipe.lengths.learned_predictor import LearnedPredictor
from tdpipe.lengths.length_evaluation import prompts_of
from tdpipe.lengths.length_table import LengthTable
from tdpipe.lengths.predictor_file import load_predictor
from tdpipe.prediction.length_predictor import LengthForecast, LengthPredictor, Prompt
from tdpipe.prediction.online import OnlinePredictor
from tdpipe.text.tokenizer import Tokenizer

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Told:
    """What one predictor says of each test prompt.

    Attributes:
        before: forecasts on arrival; None for a predictor that learns from the run.
        after: forecasts once the prompt has been read, where the predictor makes those.
        classes: the class that the predictor names for each prompt, of the last forecast.
        early_classes: of the forecast on arrival, where there is another after it.
    """

    name: str
    before: tuple[LengthForecast, ...] | None
    after: tuple[LengthForecast, ...] | None = None
    classes: list[int] | None = None
    early_classes: list[int] | None = None

    def predictor(self, drawn: Sequence[int]) -> LengthPredictor:
        """For requests that are the test prompts of these numbers."""
        if self.before is None:
            return OnlinePredictor()
        return AsTold([self.before[index] for index in drawn])


@dataclass(frozen=True, slots=True)
class AsTold:
    """Forecasts by request_id."""

    forecasts: Sequence[LengthForecast]

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        return [self.forecasts[prompt.request_id] for prompt in prompts]


def tellings(
    table: LengthTable, predictors: Sequence[LearnedPredictor], cache: Path
) -> Iterator[Told]:
    """What each predictor says of the test part, baselines first.

    Args:
        cache: folder that keeps the model's states of the test prompts: they take minutes.
    """
    test = table.part("test")
    prompts = prompts_of(test)
    mean = round(statistics.fmean(one.output_tokens for one in table.part("train")))
    yield Told("oracle", tuple(LengthForecast.certain(one.output_tokens) for one in test))
    yield Told("constant", tuple(LengthForecast.certain(mean) for _ in test))
    yield Told("max-tokens", tuple(LengthForecast.certain(one.max_tokens) for one in test))
    yield Told("online", None)
    for predictor in predictors:
        before, classes = tuple(predictor.predict(prompts)), predictor.classes(prompts)
        if predictor.head is None:
            yield Told(predictor.note.kind, before, None, classes)
            continue
        states = states_of(table, predictor.head.depth, cache)
        after = tuple(predictor.head.forecasts(states, [one.max_tokens for one in test]))
        named = [int(one) for one in predictor.head.classes(states)]
        yield Told(predictor.note.kind, before, after, named, classes)


def states_of(table: LengthTable, depth: int, cache: Path) -> npt.NDArray[np.float32]:
    """The model's states [prompts, hidden] of the test part."""
    prompts = [one.token_ids for one in table.part("test")]
    path = cache / f"states-{depth}-{sha256(repr(prompts).encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        np.save(path, prompt_states(resolve_model(MODEL).folder, prompts, [depth])[:, 0])
    states: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
    return states


def load_predictors(paths: Sequence[Path]) -> dict[str, LearnedPredictor]:
    """Predictors by kind."""
    tokenizer = Tokenizer(resolve_model(MODEL).folder)
    found = [load_predictor(path, decode=tokenizer.decode) for path in paths]
    return {predictor.note.kind: predictor for predictor in found}
