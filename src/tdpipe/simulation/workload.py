"""Requests for simulated runs: lengths only, in a form the control plane takes."""

import random
from collections.abc import Sequence

from tdpipe.control.control_plane import NewRequest
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.simulation.simulated_pipeline import PLACEHOLDER_TOKEN


def requests_of_lengths(lengths: Sequence[tuple[int, int]]) -> list[NewRequest]:
    """One request for each (prompt tokens, output tokens), ending by max_tokens alone."""
    return [
        NewRequest(
            request_id=index,
            prompt_token_ids=(PLACEHOLDER_TOKEN,) * num_prompt,
            params=SamplingParams(max_tokens=num_output, ignore_eos=True, temperature=0.0),
        )
        for index, (num_prompt, num_output) in enumerate(lengths)
    ]


def lognormal_lengths(
    count: int,
    prompt_median: float,
    output_median: float,
    sigma: float = 0.8,
    longest: int = 1024,
    seed: int = 0,
) -> list[tuple[int, int]]:
    """Seeded (prompt, output) lengths, log-normal around the medians, cut to 1 .. longest."""
    draw = random.Random(seed)

    def length(median: float) -> int:
        return max(1, min(longest, round(median * draw.lognormvariate(0.0, sigma))))

    return [(length(prompt_median), length(output_median)) for _ in range(count)]
