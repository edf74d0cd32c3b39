"""A predictor that learned from the served model's own outputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tdpipe.lengths.encoder_model import EncoderModel
from tdpipe.lengths.length_head import LengthHead
from tdpipe.lengths.model_identity import ModelIdentity
from tdpipe.lengths.text_model import TextModel
from tdpipe.prediction.length_predictor import LengthForecast, Prompt

KINDS = ("text", "encoder", "hidden")


@dataclass(frozen=True, slots=True)
class TrainingNote:
    """Where a predictor comes from.

    Attributes:
        kind: one of KINDS.
        model: the model whose outputs it learned from.
        fingerprint: of the table of lengths.
        temperature: the requests' own; None if they differed.
        num_prompts: how many were learned from.
        class_edges: longest length of each class but the last, in tokens.
        metrics: name -> figure on prompts that were left out, see LengthMetrics.figures.
    """

    kind: str
    model: ModelIdentity
    fingerprint: str
    temperature: float | None
    num_prompts: int
    class_edges: tuple[int, ...]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LearnedPredictor:
    """Forecasts before the prefill: a `LengthPredictor`.

    Attributes:
        note: where it comes from.
        model: the text or the encoder model; for kind hidden, the text model.
        head: for kind hidden, what forecasts again after the prefill.
    """

    note: TrainingNote
    model: TextModel | EncoderModel
    head: LengthHead | None = None

    def predict(self, prompts: Sequence[Prompt]) -> list[LengthForecast]:
        """One forecast per prompt, in order. Those that ignore end-of-text run to their limit."""
        forecasts = [LengthForecast.certain(prompt.max_tokens) for prompt in prompts]
        asked = [index for index, prompt in enumerate(prompts) if prompt.ends_early]
        tokens = [prompts[index].token_ids for index in asked]
        limits = [prompts[index].max_tokens for index in asked]
        told = self.model.forecasts(tokens, limits)
        for index, forecast in zip(asked, told, strict=True):
            forecasts[index] = forecast
        return forecasts

    def classes(self, prompts: Sequence[Prompt]) -> list[int]:
        """The likeliest class of each, of those that `note.class_edges` cut, before the prefill."""
        if not prompts:
            return []
        told = self.model.classes([prompt.token_ids for prompt in prompts])
        return [int(index) for index in told]
