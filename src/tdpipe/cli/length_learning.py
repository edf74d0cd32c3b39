"""`tdpipe lengths train` and `evaluate`: predictors from tables of lengths, and their figures."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tdpipe.cli.text_table import text_table
from tdpipe.core.errors import ConfigError
from tdpipe.execution.models.model_source import resolve_model
from tdpipe.frontend.predictor_setup import trained_file
from tdpipe.lengths.learned_predictor import KINDS, LearnedPredictor
from tdpipe.lengths.length_evaluation import GROUP_SIZES, class_edges, evaluate, prompts_of
from tdpipe.lengths.length_table import LengthRecord, LengthTable, read_length_table
from tdpipe.lengths.model_identity import ModelIdentity, model_digest
from tdpipe.lengths.predictor_file import load_predictor, save_predictor
from tdpipe.prediction.constant import ConstantPredictor
from tdpipe.prediction.max_tokens import MaxTokensPredictor
from tdpipe.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tdpipe.lengths.prompt_depths import PromptStates

Figures = dict[str, dict[str, float]]


class _TableModel:
    """The model that a table is of; its parts are loaded when they are needed.

    Raises:
        ConfigError: there is no such model, or it is not the one the table was made with.
    """

    def __init__(self, table: LengthTable, named: str | None) -> None:
        self._source = resolve_model(named or table.model)
        digest, shape = model_digest(self._source.folder), self._source.config.shape()
        self.identity = ModelIdentity(self._source.name, digest, shape)
        if self.identity.digest != table.model_digest:
            fix = "the table is of a model with other weights; collect again"
            raise ConfigError("model", self._source.name, fix)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self._source.folder)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(token_ids)

    def depths(self, prompts: Sequence[Sequence[int]]) -> "PromptStates":
        """The prompts' states at all depths that a head may read."""
        from tdpipe.lengths.prompt_depths import PromptStates, head_depths

        depths = head_depths(self.identity.shape.num_layers)
        return PromptStates(depths, self.states(prompts, depths))

    def states(
        self, prompts: Sequence[Sequence[int]], depths: Sequence[int]
    ) -> "npt.NDArray[np.float32]":
        """States [prompts, depths, hidden]; takes a prefill each, and says how far it is."""
        import torch

        from tdpipe.execution.prompt_states import prompt_states

        def say(count: int) -> None:
            print(f"\rreading prompts: {count} of {len(prompts)}", end="", file=sys.stderr)

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            return prompt_states(self._source.folder, prompts, depths, device, on_progress=say)
        finally:
            print(file=sys.stderr)


def train(arguments: argparse.Namespace) -> int:
    """Train, print the figures on the validation part, keep the file; returns the exit status."""
    from tdpipe.lengths.training_run import TrainingTools, train_predictor

    if arguments.kind not in KINDS:
        raise ConfigError("kind", arguments.kind, f"use one of {', '.join(KINDS)}")
    if arguments.output and Path(arguments.output).is_dir():
        raise ConfigError("output", arguments.output, "it is a folder; name a file")
    table = read_length_table(Path(arguments.input))
    model = _TableModel(table, arguments.model)
    tools = TrainingTools(model.decode, arguments.encoder, model.depths)
    predictor = train_predictor(arguments.kind, table, model.identity, tools)
    path = Path(arguments.output or trained_file(model.identity.digest))
    save_predictor(path, predictor)
    if predictor.note.metrics:
        print("\n".join(_table_lines({arguments.kind: predictor.note.metrics})))
    print(f"learned from {predictor.note.num_prompts} prompts of {model.identity.name}")
    print(f"predictor    {path}")
    return 0


def show_evaluation(arguments: argparse.Namespace) -> int:
    """Print the figures of baselines and predictors on the test part; returns the exit status."""
    table = read_length_table(Path(arguments.input))
    test, train_part = table.part("test"), table.part("train")
    if not test or not train_part:
        fix = "it needs a train and a test part; collect more"
        raise ConfigError("length_table", arguments.input, fix)
    model = _TableModel(table, arguments.model)
    paths = [Path(path) for path in arguments.predictor or [trained_file(table.model_digest)]]
    loaded = [load_predictor(path, table.model_digest, model.decode) for path in paths]
    lengths = [record.output_tokens for record in train_part]
    figures = _baselines(lengths, test)
    for path, predictor in zip(paths, loaded, strict=True):
        figures |= _figures(path, predictor, test, model)
    print(json.dumps(figures, indent=1) if arguments.json else "\n".join(_table_lines(figures)))
    return 0


def _baselines(lengths: Sequence[int], records: Sequence[LengthRecord]) -> Figures:
    prompts, edges = prompts_of(records), class_edges(lengths)
    mean = max(1, round(sum(lengths) / len(lengths)))
    rows = {
        "max-tokens": MaxTokensPredictor().predict(prompts),
        f"constant:{mean}": ConstantPredictor(mean).predict(prompts),
    }
    return {name: evaluate(row, records, edges).figures() for name, row in rows.items()}


def _figures(
    path: Path, predictor: LearnedPredictor, records: Sequence[LengthRecord], model: _TableModel
) -> Figures:
    """By name: before the prefill, and after it where the predictor has a head."""
    kind, name, edges = predictor.note.kind, path.stem[:16], predictor.note.class_edges
    prompts = prompts_of(records)
    told = evaluate(predictor.predict(prompts), records, edges, predictor.classes(prompts))
    if predictor.head is None:
        return {f"{kind} {name}": told.figures()}
    depth = predictor.head.depth
    states = model.states([record.token_ids for record in records], [depth])[:, 0]
    after = predictor.head.forecasts(states, [record.max_tokens for record in records])
    classes = [int(index) for index in predictor.head.classes(states)]
    read = evaluate(after, records, edges, classes)
    return {f"{kind} {name}, text": told.figures(), f"{kind} {name}, state": read.figures()}


def _table_lines(figures: Figures) -> list[str]:
    """Shares in percent, a line for each predictor."""
    sizes = [
        size for size in GROUP_SIZES if any(f"sum_error_{size}" in f for f in figures.values())
    ]
    head = ["predictor", "class", "of mean", "error", *(f"sum {n}" for n in sizes), "p90 cover"]
    rows = []
    for name, one in figures.items():
        sums = [
            f"{one[f'sum_error_{n}']:.1%} ({one[f'sum_error_{n}_p95']:.1%})"
            if f"sum_error_{n}" in one
            else ""
            for n in sizes
        ]
        classes = [f"{one['class_accuracy']:.1%}", f"{one['mean_class_accuracy']:.1%}"]
        error, cover = f"{one['mean_error_tokens']:.1f}", f"{one['p90_coverage']:.1%}"
        rows.append([name, *classes, error, *sums, cover])
    return [
        *text_table(head, rows),
        "class: share in the right of five classes; error: mean, tokens; sum N: error of sums over",
        "N prompts, mean (95 % quantile); p90 cover: share of lengths within the 90 % quantile",
    ]
