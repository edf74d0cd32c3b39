"""The compiled matrix product against numpy's."""

import numpy as np
import pytest

from tdpipe.execution.matrix_kernels import INPUTS_AT_ONCE, MOST_ROWS, PANEL, multiply, to_panels


def product(x, weight, bias):
    panels = to_panels(weight)
    filled = np.zeros(len(panels) * PANEL, np.float32)
    filled[: len(bias)] = bias
    output = np.full((len(x), len(weight)), np.nan, np.float32)
    multiply(x, panels, filled, output)
    return output


def numbers(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("outputs", [1, PANEL - 1, PANEL, 2 * PANEL + 3])
@pytest.mark.parametrize("inputs", [1, 7, 64])
def test_any_number_of_rows(inputs, outputs):
    """Rows are taken by tiles of all sizes; outputs may end within a panel."""
    weight, bias = numbers(outputs, inputs), numbers(outputs)
    for rows in (*range(2 * MOST_ROWS + 2), 53):
        x = numbers(rows, inputs)
        want = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
        np.testing.assert_allclose(product(x, weight, bias), want, rtol=1e-4, atol=1e-5)


def test_rows_that_do_not_fit_the_cache_together():
    inputs = 512
    rows = INPUTS_AT_ONCE // inputs * 2 + 5
    x, weight, bias = numbers(rows, inputs), numbers(40, inputs), numbers(40)
    np.testing.assert_allclose(product(x, weight, bias), x @ weight.T + bias, rtol=1e-3, atol=1e-3)


def test_a_row_does_not_depend_on_the_others():
    x, weight, bias = numbers(3 * MOST_ROWS + 1, 96), numbers(50, 96), numbers(50)
    together = product(x, weight, bias)
    for row in range(len(x)):
        np.testing.assert_array_equal(product(x[row : row + 1], weight, bias)[0], together[row])
