"""Learns the models of lengths from a table's records.

The score of "text" and "hidden" is a ridge regression to the logarithm of the length. It is
calibrated on the scores of prompts that were left out: those of prompts that it has seen would
make it look better than it is. Beside it each learns the paper's five classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, hstack

from tdpipe.core.errors import ConfigError
from tdpipe.lengths.class_model import ClassModel
from tdpipe.lengths.encoder_model import Decode, EncoderModel
from tdpipe.lengths.length_bins import Floats, Ints, LengthBins, uncut_lengths
from tdpipe.lengths.length_calibration import P90, LengthCalibration, fit_calibration
from tdpipe.lengths.length_evaluation import class_edges, length_class
from tdpipe.lengths.length_head import LengthHead
from tdpipe.lengths.length_table import LengthRecord
from tdpipe.lengths.linear_fits import RidgeFit, fit_classes, fit_ridge
from tdpipe.lengths.prompt_depths import PromptStates
from tdpipe.lengths.prompt_features import NUM_BUCKETS, prompt_features
from tdpipe.lengths.sentence_encoder import SentenceEncoder
from tdpipe.lengths.text_model import TextModel

Records = Sequence[LengthRecord]
MIN_RECORDS = 20
# The dense features, standardised, count this much beside a row of the sparse ones.
SHAPE_SCALE = 0.3
TEXT_PENALTIES, TEXT_STRENGTHS = (0.1, 0.3, 1.0, 3.0), (1.0, 3.0, 10.0)
STATE_PENALTIES = (100.0, 300.0, 1000.0, 3000.0, 10000.0)
STATE_STRENGTHS = (0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 1.0)
ENCODER_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
CLASS_SAMPLES = 256


def train_text(records: Records) -> TextModel:
    """A model of prompts' token ids. Raises ConfigError: too few records."""
    _check_enough(records)
    features = prompt_features([record.token_ids for record in records])
    entries = (features.values, (features.rows, features.buckets))
    sparse = csr_array(entries, shape=(len(records), NUM_BUCKETS))
    means, scales = _moments(features.shape)
    scales = scales / SHAPE_SCALE
    matrix = hstack([sparse, csr_array((features.shape - means) / scales)]).tocsr()
    prompts = [record.token_ids for record in records]
    weights, bias, scores, _ = fit_ridge(matrix, _targets(records), prompts, TEXT_PENALTIES)
    shape_weights = weights[NUM_BUCKETS:] / scales
    bias -= float(means @ shape_weights)
    # Of the raw features: zero mean and scale 1 for the sparse ones.
    whole = np.concatenate([np.zeros(NUM_BUCKETS), means]), np.append(np.ones(NUM_BUCKETS), scales)
    classes = _raw(_classes(matrix, records, TEXT_STRENGTHS), *whole)
    calibration = _calibrated(scores, records)
    return TextModel(weights[:NUM_BUCKETS], shape_weights, bias, calibration, classes)


def train_head(records: Records, states: PromptStates) -> LengthHead:
    """A model of the served model's states, at the depth that says most of the lengths.

    Raises:
        ConfigError: too few records.
    """
    _check_enough(records)
    assert len(states.values) == len(records)
    prompts = [record.token_ids for record in records]
    fits: dict[int, RidgeFit] = {}
    for depth in states.depths:
        matrix = _standardised(states.at(depth))[0]
        fits[depth] = fit_ridge(matrix, _targets(records), prompts, STATE_PENALTIES)
    depth = min(fits, key=lambda one: fits[one].error)
    matrix, means, scales = _standardised(states.at(depth))
    weights = fits[depth].weights / scales
    bias = fits[depth].bias - float(means @ weights)
    classes = _raw(_classes(matrix, records, STATE_STRENGTHS), means, scales)
    limit = max(record.max_tokens for record in records)
    return LengthHead(
        weights, bias, _calibrated(fits[depth].scores, records), classes, limit, depth
    )


def _standardised(states: npt.NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """The states [records, hidden] with mean 0 and deviation 1, and what these were."""
    values = states.astype(np.float64)
    means, scales = _moments(values)
    return (values - means) / scales, means, scales


def train_encoder(
    records: Records, embeddings: Floats, encoder: SentenceEncoder, decode: Decode
) -> EncoderModel:
    """Classes over the encoder's embeddings [records, dimensions]. Raises as the others."""
    _check_enough(records)
    classes = _classes(embeddings, records, ENCODER_STRENGTHS)
    return EncoderModel(classes, _class_bins(records), encoder, decode)


def _classes(matrix: Any, records: Records, strengths: Sequence[float]) -> ClassModel:
    labels, num_classes = _labels(records)
    prompts = [record.token_ids for record in records]
    return fit_classes(matrix, labels, num_classes, prompts, strengths)


def _labels(records: Records) -> tuple[Ints, int]:
    """The class [records] of each length, and how many classes there may be."""
    lengths = [record.output_tokens for record in records]
    edges = class_edges(lengths)
    return np.array([length_class(edges, length) for length in lengths]), len(edges) + 1


def _raw(fitted: ClassModel, means: Floats, scales: Floats) -> ClassModel:
    """The classifier of features as they are, from that of standardised ones."""
    weights = fitted.weights / scales
    return ClassModel(weights, fitted.biases - weights @ means)


def _class_bins(records: Records) -> LengthBins:
    lengths, limits, was_cut = _columns(records)
    values = uncut_lengths(lengths, limits, was_cut)
    labels, num_classes = _labels(records)
    shares = (np.arange(CLASS_SAMPLES) + 0.5) / CLASS_SAMPLES
    rows = []
    for index in range(num_classes):
        members = values[labels == index] if (labels == index).any() else values
        rows.append(np.sort(members)[(shares * len(members)).astype(np.int64)])
    return LengthBins(np.array(rows), P90)


def _check_enough(records: Records) -> None:
    if len(records) < MIN_RECORDS:
        fix = f"learning needs at least {MIN_RECORDS} outputs; collect more"
        raise ConfigError("length_table", f"{len(records)} records", fix)


def _columns(records: Records) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Lengths, limits, and which were cut; each [records]."""
    lengths = np.array([record.output_tokens for record in records], np.int64)
    limits = np.array([record.max_tokens for record in records], np.int64)
    return lengths, limits, np.array([record.was_cut for record in records], bool)


def _calibrated(scores: Floats, records: Records) -> LengthCalibration:
    return fit_calibration(scores, *_columns(records))


def _targets(records: Records) -> Floats:
    """What is regressed; ranks and square roots do no better."""
    targets: Floats = np.log([float(record.output_tokens) for record in records])
    return targets


def _moments(values: Floats) -> tuple[Floats, Floats]:
    """Means and standard deviations of columns; 1 for a column that does not vary."""
    scales = values.std(axis=0)
    return values.mean(axis=0), np.where(scales > 1e-9, scales, 1.0)
