"""Generated workloads: their seeds, their means against the data's, and the sampler's parts."""

import random
from itertools import pairwise
from statistics import correlation, mean

import pytest

from tdpipe.core.errors import ConfigError
from tdpipe.simulation.workload_models import (
    QUANTILE_LEVELS,
    WORKLOAD_MODELS,
    LengthModel,
    generate_workload,
    length_at,
    lognormal_quantiles,
)

# Mean (prompt, output) tokens of the data, as benchmarks/fit_workloads.py prints them; of the
# log-normal one, median times exp(sigma^2 / 2).
DATA_MEANS = {
    "sharegpt": (107.79, 295.71),
    "azure-conv": (1154.70, 211.13),
    "azure-code": (2047.85, 27.88),
    "m-large": (908.69, 155.27),
    "reasoning": (1249.79, 1403.09),
    "long-document": (8253.9, 206.3),
}


def test_every_model_is_checked():
    assert DATA_MEANS.keys() == WORKLOAD_MODELS.keys()


@pytest.mark.parametrize("name", DATA_MEANS)
def test_means_are_within_five_percent_of_the_data(name):
    workload = generate_workload(name, 20_000)
    prompts, outputs = DATA_MEANS[name]
    assert workload.prompt_tokens / 20_000 == pytest.approx(prompts, rel=0.05)
    assert workload.output_tokens / 20_000 == pytest.approx(outputs, rel=0.05)


@pytest.mark.parametrize("name", DATA_MEANS)
def test_tables_are_quantiles(name):
    model = WORKLOAD_MODELS[name]
    for quantiles in (model.prompt_quantiles, model.output_quantiles):
        assert len(quantiles) == len(QUANTILE_LEVELS)
        assert quantiles[0] >= 1
        assert all(low <= high for low, high in pairwise(quantiles))
    assert -1.0 <= model.rank_correlation <= 1.0


@pytest.mark.parametrize("name", DATA_MEANS)
def test_lengths_stay_within_the_table(name):
    model = WORKLOAD_MODELS[name]
    workload = generate_workload(name, 2000, seed=3)
    prompts, outputs = zip(*workload.lengths(), strict=True)
    assert model.prompt_quantiles[0] <= min(prompts) <= max(prompts) <= model.prompt_quantiles[-1]
    assert model.output_quantiles[0] <= min(outputs) <= max(outputs) <= model.output_quantiles[-1]


def test_the_limits_of_two_models():
    assert max(WORKLOAD_MODELS["sharegpt"].prompt_quantiles) < 1024
    assert max(WORKLOAD_MODELS["reasoning"].output_quantiles) == 8192


def test_the_seed_fixes_the_workload():
    first = generate_workload("sharegpt", 50, seed=1)
    assert first == generate_workload("sharegpt", 50, seed=1)
    assert first != generate_workload("sharegpt", 50, seed=2)
    assert first.name == "sharegpt" and len(first.requests) == 50
    assert first.requests == generate_workload("sharegpt", 80, seed=1).requests[:50]
    assert {request.arrival_s for request in first.requests} == {0.0}


def test_an_unknown_name_is_answered_with_the_choices():
    with pytest.raises(ConfigError) as caught:
        generate_workload("sharegtp", 5)
    assert all(name in str(caught.value) for name in WORKLOAD_MODELS)


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_below_one(count):
    with pytest.raises(ConfigError, match="count="):
        generate_workload("sharegpt", count)


def test_lengths_between_quantiles_are_geometric():
    quantiles = tuple(2**place for place in range(len(QUANTILE_LEVELS)))
    for place, level in enumerate(QUANTILE_LEVELS):
        assert length_at(level, quantiles) == 2**place
    between = (QUANTILE_LEVELS[10] + QUANTILE_LEVELS[11]) / 2
    assert length_at(between, quantiles) == round(2**10.5)


@pytest.mark.parametrize("wanted", [-0.8, 0.0, 0.5, 1.0])
def test_ranks_correlate_as_wanted(wanted):
    # Ten thousand lengths spread evenly over 1000 .. 2000, so that lengths are almost ranks.
    even = tuple(round(1000 + 1000 * level) for level in QUANTILE_LEVELS)
    source = random.Random(0)
    prompts, outputs = zip(
        *(LengthModel(even, even, wanted).draw(source) for _ in range(10_000)), strict=True
    )
    assert correlation(prompts, outputs) == pytest.approx(wanted, abs=0.03)


def test_lognormal_quantiles():
    quantiles = lognormal_quantiles(8000, 0.25)
    assert quantiles[QUANTILE_LEVELS.index(0.5)] == 8000
    assert 8000 / quantiles[0] == pytest.approx(quantiles[-1] / 8000, rel=1e-3)
    grid = [length_at((step + 0.5) / 5000, quantiles) for step in range(5000)]
    assert mean(grid) == pytest.approx(8254, rel=0.01)
