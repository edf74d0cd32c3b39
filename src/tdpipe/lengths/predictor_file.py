"""Learned predictors as files: one safetensors file, arrays and a JSON note, no code.

A file of another kind, of a newer format, of another model, or one that is damaged, is refused in
one line.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tdpipe.core.errors import ConfigError
from tdpipe.core.model_shape import ModelShape
from tdpipe.lengths.class_model import ClassModel
from tdpipe.lengths.encoder_model import Decode, EncoderModel
from tdpipe.lengths.learned_predictor import KINDS, LearnedPredictor, TrainingNote
from tdpipe.lengths.length_bins import Floats, LengthBins
from tdpipe.lengths.length_calibration import LengthCalibration
from tdpipe.lengths.length_evaluation import CLASS_CUTS
from tdpipe.lengths.length_head import LengthHead
from tdpipe.lengths.model_identity import ModelIdentity
from tdpipe.lengths.prompt_features import NUM_BUCKETS, NUM_SHAPE
from tdpipe.lengths.sentence_encoder import SentenceEncoder
from tdpipe.lengths.text_model import TextModel

# Raised when arrays or features change their meaning: an older file must be trained anew.
FORMAT_VERSION = 2
NOTE = "tdpipe_lengths"

Arrays = Mapping[str, npt.NDArray[Any]]


def save_predictor(path: Path, predictor: LearnedPredictor) -> None:
    """Write a predictor; the file is there complete or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    model, head = predictor.model, predictor.head
    arrays: dict[str, npt.NDArray[Any]] = {}
    note: dict[str, Any] = {"version": FORMAT_VERSION, **asdict(predictor.note)}
    if isinstance(model, EncoderModel):
        arrays |= _class_arrays("encoder", model.class_model)
        arrays |= _bins_arrays("encoder", model.bins)
        note["encoder"] = model.encoder.named
    else:
        arrays |= {"text.weights": model.weights, "text.shape_weights": model.shape_weights}
        arrays |= _score_arrays("text", model.bias, model.calibration)
        arrays |= _class_arrays("text", model.class_model)
    if head is not None:
        arrays["hidden.weights"] = head.weights
        arrays |= _score_arrays("hidden", head.bias, head.calibration)
        arrays |= _class_arrays("hidden", head.class_model)
        note |= {"head_max_tokens": head.max_tokens, "head_depth": head.depth}
    values = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    temporary = Path(f"{path}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(values, {NOTE: json.dumps(note)}))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = getattr(error, "strerror", None) or str(error)
        raise _refusal(path, f"it cannot be written ({reason})") from None


def _bins_arrays(name: str, bins: LengthBins) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}.samples": bins.samples, f"{name}.p90_level": np.array([bins.p90_level])}


def _class_arrays(name: str, model: ClassModel) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}.class_weights": model.weights, f"{name}.class_biases": model.biases}


def _score_arrays(
    name: str, bias: float, calibration: LengthCalibration
) -> dict[str, npt.NDArray[Any]]:
    own = {f"{name}.bias": np.array([bias]), f"{name}.edges": calibration.edges}
    return {**own, **_bins_arrays(name, calibration.bins)}


def load_predictor(
    path: Path, model_digest: str | None = None, decode: Decode | None = None
) -> LearnedPredictor:
    """Read a predictor.

    Args:
        model_digest: of the model that is served; None to take a file of any model.
        decode: the served model's tokenizer, token ids to text; needed for kind encoder.

    Raises:
        ConfigError: field length_predictor: no such file, not a predictor, damaged, of a newer
            format or another model; field encoder: the sentence encoder is not there.
    """
    note, values, arrays = _read(path, model_digest)
    try:
        if note.kind == "encoder":
            return LearnedPredictor(note, _encoder_model(path, values, arrays, decode))
        head = _head(note, values, arrays) if note.kind == "hidden" else None
        return LearnedPredictor(note, _text_model(arrays), head)
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError):
        raise _refusal(path, "it is damaged; train it again") from None


def load_head(path: Path, model_digest: str | None = None) -> LengthHead:
    """Read only what works on the served model's states.

    Raises:
        ConfigError: as `load_predictor`, and if the file is of another kind than hidden.
    """
    note, values, arrays = _read(path, model_digest)
    if note.kind != "hidden":
        raise _refusal(path, f"its kind is {note.kind}; train one with --kind hidden")
    try:
        return _head(note, values, arrays)
    except (ValueError, TypeError, KeyError):
        raise _refusal(path, "it is damaged; train it again") from None


# ---- reading


def _read(path: Path, model_digest: str | None) -> tuple[TrainingNote, dict[str, Any], Arrays]:
    if not path.is_file():
        raise _refusal(path, "there is no such file; make one with tdpipe lengths train")
    foreign = "not a length predictor; make one with tdpipe lengths train"
    try:
        with safe_open(path, framework="np") as file:
            told = (file.metadata() or {}).get(NOTE)
            names = list(file.keys()) if told else []
            arrays = {name: file.get_tensor(name).astype(np.float64) for name in names}
    except OSError as error:
        raise _refusal(path, f"it cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError, TypeError):
        raise _refusal(path, foreign) from None
    if told is None:
        raise _refusal(path, foreign)
    note, values = _note(path, told)
    if model_digest is not None and note.model.digest != model_digest:
        fix = f"it was trained for another model ({note.model.name}); train one for this model"
        raise _refusal(path, fix)
    return note, values, arrays


def _note(path: Path, told: str) -> tuple[TrainingNote, dict[str, Any]]:
    try:
        values = json.loads(told)
        version = values.pop("version")
        if version != FORMAT_VERSION:
            fix = f"its format is {version!r}, this version reads {FORMAT_VERSION}; train it again"
            raise _refusal(path, fix)
        model = values.pop("model")
        identity = ModelIdentity(model["name"], model["digest"], ModelShape(**model["shape"]))
        rest = {"encoder": values.pop("encoder", None)}
        rest |= {name: values.pop(name, None) for name in ("head_max_tokens", "head_depth")}
        values["class_edges"] = tuple(int(edge) for edge in values["class_edges"])
        note = TrainingNote(model=identity, **values)
        if note.kind not in KINDS or len(note.class_edges) != len(CLASS_CUTS):
            raise ValueError(note)
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _refusal(path, "its note is damaged; train it again") from None
    return note, rest


def _refusal(path: Path, fix: str) -> ConfigError:
    return ConfigError("length_predictor", str(path), fix)


def _array(arrays: Arrays, name: str, shape: tuple[int | None, ...]) -> Floats:
    """An array of that shape (None: any size above 0), all finite; else ValueError, KeyError."""
    array: Floats = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        found > 0 if wanted is None else found == wanted
        for found, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or not np.isfinite(array).all():
        raise ValueError(name)
    return array


def _bins(arrays: Arrays, name: str, num_bins: int) -> LengthBins:
    samples = _array(arrays, f"{name}.samples", (num_bins, None))
    (level,) = _array(arrays, f"{name}.p90_level", (1,))
    if (samples < 1).any() or (np.diff(samples, axis=1) < 0).any() or not 0 < level <= 1:
        raise ValueError(name)
    return LengthBins(samples, float(level))


def _calibration(arrays: Arrays, name: str) -> LengthCalibration:
    edges = _array(arrays, f"{name}.edges", (arrays[f"{name}.edges"].size,))
    if (np.diff(edges) < 0).any():
        raise ValueError(name)
    return LengthCalibration(edges, _bins(arrays, name, len(edges) + 1))


def _class_model(arrays: Arrays, name: str, num_columns: int | None) -> ClassModel:
    num_classes = len(CLASS_CUTS) + 1
    weights = _array(arrays, f"{name}.class_weights", (num_classes, num_columns))
    return ClassModel(weights, _array(arrays, f"{name}.class_biases", (num_classes,)))


def _text_model(arrays: Arrays) -> TextModel:
    (bias,) = _array(arrays, "text.bias", (1,))
    weights = _array(arrays, "text.weights", (NUM_BUCKETS,))
    shape_weights = _array(arrays, "text.shape_weights", (NUM_SHAPE,))
    classes = _class_model(arrays, "text", NUM_BUCKETS + NUM_SHAPE)
    return TextModel(weights, shape_weights, float(bias), _calibration(arrays, "text"), classes)


def _head(note: TrainingNote, values: dict[str, Any], arrays: Arrays) -> LengthHead:
    (bias,) = _array(arrays, "hidden.bias", (1,))
    size = note.model.shape.hidden_size
    weights = _array(arrays, "hidden.weights", (size,))
    calibration, classes = _calibration(arrays, "hidden"), _class_model(arrays, "hidden", size)
    most, depth = int(values["head_max_tokens"]), int(values["head_depth"])
    if not 1 <= depth <= note.model.shape.num_layers:
        raise ValueError(depth)
    return LengthHead(weights, float(bias), calibration, classes, most, depth)


def _encoder_model(
    path: Path, values: dict[str, Any], arrays: Arrays, decode: Callable[..., str] | None
) -> EncoderModel:
    if decode is None:
        raise _refusal(path, "its kind is encoder, which needs the model's tokenizer")
    classes = _class_model(arrays, "encoder", None)
    bins = _bins(arrays, "encoder", len(CLASS_CUTS) + 1)
    return EncoderModel(classes, bins, SentenceEncoder(values["encoder"]), decode)
