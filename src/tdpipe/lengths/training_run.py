"""One training: measured on prompts that were left out, then repeated with them.

The file that is kept learned from the train and the validation part; its figures are those of the
same training on the train part alone, measured on the validation part. The test part is not
looked at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tdpipe.core.errors import ConfigError
from tdpipe.lengths.encoder_model import Decode, EncoderModel
from tdpipe.lengths.learned_predictor import LearnedPredictor, TrainingNote
from tdpipe.lengths.length_evaluation import LengthMetrics, class_edges, evaluate
from tdpipe.lengths.length_head import LengthHead
from tdpipe.lengths.length_table import LengthRecord, LengthTable
from tdpipe.lengths.length_training import train_encoder, train_head, train_text
from tdpipe.lengths.model_identity import ModelIdentity
from tdpipe.lengths.prompt_depths import PromptStates
from tdpipe.lengths.sentence_encoder import SentenceEncoder
from tdpipe.lengths.text_model import TextModel

Records = Sequence[LengthRecord]
States = Callable[[Sequence[Sequence[int]]], PromptStates]


@dataclass(frozen=True, slots=True)
class TrainingTools:
    """What kinds other than text need.

    Attributes:
        decode: the served model's tokenizer, token ids to text (encoder).
        encoder: the sentence encoder's folder; None is the default one (encoder).
        states: prompts' token ids to the model's states at the depths to try (hidden).
    """

    decode: Decode
    encoder: str | None
    states: States


def train_predictor(
    kind: str, table: LengthTable, identity: ModelIdentity, tools: TrainingTools
) -> LearnedPredictor:
    """Learn from a table's train and validation parts.

    Raises:
        ConfigError: there are too few records, or the encoder or the model cannot be used.
    """
    train, validation = table.part("train"), table.part("validation")
    records = (*train, *validation)
    if not records:
        fix = "no prompt is in train or validation; collect more"
        raise ConfigError("length_table", f"{len(table.records)} records", fix)
    fit = _Fit(kind, records, tools)
    metrics = {}
    if train and validation:
        metrics = fit.metrics(*fit.models(len(train)), len(train)).figures()
    note = TrainingNote(
        kind=kind,
        model=identity,
        fingerprint=table.fingerprint(),
        temperature=table.temperature,
        num_prompts=len(records),
        class_edges=class_edges([record.output_tokens for record in records]),
        metrics=metrics,
    )
    return LearnedPredictor(note, *fit.models(len(records)))


class _Fit:
    """Trains on the first of the records; what is costly about them is computed once."""

    def __init__(self, kind: str, records: Records, tools: TrainingTools) -> None:
        self._records, self._tools = records, tools
        prompts = [record.token_ids for record in records]
        self._encoder = SentenceEncoder(tools.encoder) if kind == "encoder" else None
        self._embeddings = np.empty((0, 0))
        if self._encoder is not None:
            self._embeddings = self._encoder.embed([tools.decode(prompt) for prompt in prompts])
        self._states = tools.states(prompts) if kind == "hidden" else None

    def models(self, count: int) -> tuple[TextModel | EncoderModel, LengthHead | None]:
        """The models learned from the first `count` records."""
        seen = self._records[:count]
        if self._encoder is not None:
            decode, embeddings = self._tools.decode, self._embeddings[:count]
            return train_encoder(seen, embeddings, self._encoder, decode), None
        states = self._states
        head = None if states is None else train_head(seen, states.part(slice(count)))
        return train_text(seen), head

    def metrics(
        self, model: TextModel | EncoderModel, head: LengthHead | None, first: int
    ) -> LengthMetrics:
        """Figures on the records from `first` on: of the head where there is one.

        The classes are cut where the records before them are.
        """
        seen, asked = self._records[:first], self._records[first:]
        prompts, limits = [one.token_ids for one in asked], [one.max_tokens for one in asked]
        if head is not None and self._states is not None:
            states = self._states.at(head.depth)[first:]
            forecasts, classes = head.forecasts(states, limits), head.classes(states)
        elif isinstance(model, EncoderModel):
            classes = model.class_model.of_rows(self._embeddings[first:])
            forecasts = model.bins.forecasts(classes, limits)
        else:
            forecasts, classes = model.forecasts(prompts, limits), model.classes(prompts)
        edges = class_edges([record.output_tokens for record in seen])
        return evaluate(forecasts, asked, edges, [int(index) for index in classes])
