"""The compiled product of bytes against numpy's."""

import numpy as np
import pytest

from tdpipe.execution import int8_kernels
from tdpipe.execution.int8_kernels import (
    INPUTS,
    MOST_ROWS,
    MOST_WEIGHT,
    PANEL,
    multiply_int8,
    to_int8_panels,
)

pytestmark = pytest.mark.skipif(
    not int8_kernels.is_available(), reason="needs a processor with AVX2 or AVX-512 VNNI"
)


def product(x, weight):
    """With scales and biases that tell each output from the others, and each row."""
    rows, (outputs, inputs) = len(x), weight.shape
    panels = to_int8_panels(weight)
    filled = np.zeros((rows, panels.shape[1] * INPUTS), np.uint8)
    filled[:, :inputs] = x
    each = np.arange(len(panels) * PANEL, dtype=np.float32)
    row_scales = np.arange(1, rows + 1, dtype=np.float32)[:, None]
    output = np.full((rows, outputs), np.nan, np.float32)
    offsets = 3 * each.astype(np.int32)
    multiply_int8(filled, row_scales, panels, offsets, 0.5 + each, 7 * each, output)
    each = each[:outputs]
    exact = x.astype(np.int64) @ weight.T.astype(np.int64) - 3 * each.astype(np.int64)
    np.testing.assert_allclose(output, exact * (0.5 + each) * row_scales + 7 * each, rtol=1e-5)


@pytest.mark.parametrize("outputs", [1, PANEL - 1, PANEL, 2 * PANEL + 3])
@pytest.mark.parametrize("inputs", [1, 7, 64])
def test_any_number_of_rows(inputs, outputs):
    draw = np.random.default_rng(0)
    for rows in (*range(2 * MOST_ROWS + 2), 53):
        x = draw.integers(0, 256, (rows, inputs), np.uint8)
        product(x, draw.integers(-MOST_WEIGHT, MOST_WEIGHT + 1, (outputs, inputs), np.int8))


def test_rows_that_do_not_fit_the_cache_together():
    draw = np.random.default_rng(0)
    inputs = int8_kernels.BYTES_AT_ONCE // 60
    product(
        draw.integers(0, 256, (130, inputs), np.uint8),
        draw.integers(-MOST_WEIGHT, MOST_WEIGHT + 1, (20, inputs), np.int8),
    )


def test_the_largest_sums():
    for weight in (MOST_WEIGHT, -MOST_WEIGHT):
        product(np.full((3, 4096), 255, np.uint8), np.full((16, 4096), weight, np.int8))
