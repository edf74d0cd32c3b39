"""Regression and classification with a penalty chosen on prompts that were left out.

scikit-learn is imported here and nowhere else: what it fits is kept as plain arrays.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from tdpipe.core.errors import ConfigError
from tdpipe.lengths.class_model import ClassModel
from tdpipe.lengths.length_bins import Floats, Ints

SCORE_FOLDS = 10
CLASS_FOLDS = 4
# A class that no output fell into, as when many have the same length, is never chosen.
NEVER = -1e9
# The matrices are small: several threads would wait for each other more than they compute.
THREADS = 1


class RidgeFit(NamedTuple):
    """Weights [columns] and bias; of rows when left out, scores [rows] and mean square error."""

    weights: Floats
    bias: float
    scores: Floats
    error: float


def fit_ridge(
    matrix: Any, targets: Floats, prompts: Sequence[tuple[int, ...]], penalties: Sequence[float]
) -> RidgeFit:
    """Regression to `targets` with the penalty that errs least on rows that were left out.

    Args:
        matrix: [rows, columns], dense or sparse.
        targets: [rows].
        prompts: [rows] of token ids; equal ones are left out together.

    Raises:
        ConfigError: all prompts are the same.
    """
    folds = list(_folds(prompts, SCORE_FOLDS))
    best_error, best_penalty, best_scores = np.inf, penalties[0], targets
    for penalty in penalties:
        scores = np.empty(len(targets))
        for seen, left_out in folds:
            fitted = _ridge(matrix[seen], targets[seen], penalty)
            scores[left_out] = fitted.predict(matrix[left_out])
        error = float(((scores - targets) ** 2).mean())
        if error < best_error:
            best_error, best_penalty, best_scores = error, penalty, scores
    model = _ridge(matrix, targets, best_penalty)
    weights, bias = np.asarray(model.coef_, np.float64), float(model.intercept_)
    return RidgeFit(weights, bias, best_scores, best_error)


def fit_classes(
    matrix: Any,
    classes: Ints,
    num_classes: int,
    prompts: Sequence[tuple[int, ...]],
    strengths: Sequence[float],
) -> ClassModel:
    """Logistic regression into `classes` [rows]; `strengths` are inverse penalties to try.

    Raises:
        ConfigError: all prompts are the same.
    """
    folds = list(_folds(prompts, CLASS_FOLDS))
    losses = []
    for strength in strengths:
        loss = 0.0
        for seen, left_out in folds:
            fitted = _logistic(matrix[seen], classes[seen], num_classes, strength)
            scores = matrix[left_out] @ fitted.weights.T + fitted.biases
            tops = scores.max(axis=1)
            totals = np.log(np.exp(scores - tops[:, None]).sum(axis=1)) + tops
            told = scores[np.arange(len(scores)), classes[left_out]]
            # A class that only left-out rows have says nothing about the strength.
            loss += float(np.minimum(totals - told, 20.0).sum())
        losses.append(loss)
    return _logistic(matrix, classes, num_classes, strengths[int(np.argmin(losses))])


def _ridge(matrix: Any, targets: Floats, penalty: float) -> Any:
    # Conjugate gradients for sparse rows, which have more columns than there are rows.
    solver = "cholesky" if isinstance(matrix, np.ndarray) else "sparse_cg"
    with threadpool_limits(limits=THREADS):
        return Ridge(alpha=penalty, solver=solver, tol=1e-5).fit(matrix, targets)


def _logistic(matrix: Any, classes: Ints, num_classes: int, strength: float) -> ClassModel:
    weights = np.zeros((num_classes, matrix.shape[1]))
    biases = np.full(num_classes, NEVER)
    seen = np.unique(classes)
    if len(seen) == 1:
        biases[seen] = 0.0
        return ClassModel(weights, biases)
    with threadpool_limits(limits=THREADS):
        fitted = LogisticRegression(C=strength, max_iter=500, tol=1e-3).fit(matrix, classes)
    if len(seen) == 2:  # one row of weights then: of the second class against the first
        weights[seen[1]], biases[seen] = fitted.coef_[0], [0.0, fitted.intercept_[0]]
    else:
        weights[seen], biases[seen] = fitted.coef_, fitted.intercept_
    return ClassModel(weights, biases)


def _folds(prompts: Sequence[tuple[int, ...]], most: int) -> Iterator[tuple[Ints, Ints]]:
    """Index arrays, seen and left out."""
    numbers: dict[tuple[int, ...], int] = {}
    groups = [numbers.setdefault(prompt, len(numbers)) for prompt in prompts]
    if len(numbers) < 2:
        fix = "learning needs outputs of different prompts; collect more"
        raise ConfigError("length_table", "one prompt", fix)
    splitter = GroupKFold(min(most, len(numbers)), shuffle=True, random_state=0)
    return iter(splitter.split(groups, groups=groups))
