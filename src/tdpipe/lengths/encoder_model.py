"""The paper's form of predictor (3.3): an encoder's embedding, five classes, a class's mean."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tdpipe.lengths.class_model import ClassModel
from tdpipe.lengths.length_bins import Ints, LengthBins
from tdpipe.lengths.sentence_encoder import SentenceEncoder
from tdpipe.prediction.length_predictor import LengthForecast

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class EncoderModel:
    """A linear classifier over embeddings.

    Attributes:
        class_model: of the embedding's dimensions.
        bins: the lengths that each class had in training.
        encoder: makes the embeddings.
        decode: the served model's tokenizer, token ids to text.
    """

    class_model: ClassModel
    bins: LengthBins
    encoder: SentenceEncoder
    decode: Decode

    def classes(self, prompts: Sequence[Sequence[int]]) -> Ints:
        """The likeliest class [prompts] of each prompt's token ids."""
        embeddings = self.encoder.embed([self.decode(prompt) for prompt in prompts])
        return self.class_model.of_rows(embeddings)

    def forecasts(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> list[LengthForecast]:
        """Forecasts for prompts (token ids) with max_tokens `limits`."""
        return self.bins.forecasts(self.classes(prompts), limits) if len(prompts) else []
