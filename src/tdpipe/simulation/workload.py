"""Requests for simulated runs: lengths, arrivals and shared prefixes, never any text.

A `Workload` comes from a file (workload_file) or a generator (workload_models); `requests_of` and
`timed_requests_of` put it in the form that the control plane takes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tdpipe.control.arrivals import TimedRequest
from tdpipe.control.control_plane import NewRequest
from tdpipe.core.errors import ConfigError
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.simulation.simulated_pipeline import END_TOKEN, PLACEHOLDER_TOKEN

PREFIX_BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    """One request by its numbers.

    Attributes:
        prompt_tokens: length of the prompt.
        output_tokens: length of the answer.
        arrival_s: seconds after the workload's first arrival; 0 for offline jobs.
        prefix_hashes: one per PREFIX_BLOCK_TOKENS of prompt, the last block perhaps partial; two
            requests share as many prompt tokens as the blocks they begin with in common.
    """

    prompt_tokens: int
    output_tokens: int
    arrival_s: float = 0.0
    prefix_hashes: tuple[int, ...] = ()

    def capped(self, prompt_limit: int | None, output_limit: int | None) -> "WorkloadRequest":
        """The same request, its lengths cut to the limits that are given."""
        prompt = min(self.prompt_tokens, prompt_limit or self.prompt_tokens)
        output = min(self.output_tokens, output_limit or self.output_tokens)
        num_blocks = -(-prompt // PREFIX_BLOCK_TOKENS)
        hashes = self.prefix_hashes[:num_blocks]
        return replace(self, prompt_tokens=prompt, output_tokens=output, prefix_hashes=hashes)


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests under one name.

    Attributes:
        name: shown in results: the file's stem or the generator's name.
        requests: the requests, in the order of the file or of the draw.
        dropped_requests: how many of the source had no prompt or no output token and were left out.
    """

    name: str
    requests: tuple[WorkloadRequest, ...]
    dropped_requests: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all requests."""
        return sum(request.prompt_tokens for request in self.requests)

    @property
    def output_tokens(self) -> int:
        """Output tokens of all requests."""
        return sum(request.output_tokens for request in self.requests)

    def lengths(self) -> list[tuple[int, int]]:
        """(prompt tokens, output tokens) of each request."""
        return [(request.prompt_tokens, request.output_tokens) for request in self.requests]

    def sample(self, count: int, seed: int = 0) -> "Workload":
        """`count` requests drawn by the seed, sorted by arrival, else in the order of the draw.

        None is drawn twice unless more are asked for than there are.
        """
        _check_at_least_one("count", count)
        if not self.requests:
            raise ConfigError("workload", self.name, "it has no requests to draw from")
        draw = random.Random(seed)
        if count <= len(self.requests):
            drawn = draw.sample(self.requests, count)
        else:
            drawn = draw.choices(self.requests, k=count)
        drawn.sort(key=lambda request: request.arrival_s)
        return replace(self, requests=tuple(drawn))

    def offline(self) -> "Workload":
        """The same requests, all there at the start."""
        return replace(self, requests=tuple(replace(r, arrival_s=0.0) for r in self.requests))

    def scaled(
        self, prompt_limit: int | None = None, output_limit: int | None = None
    ) -> "Workload":
        """The same requests with their lengths cut to the limits; None leaves a length alone."""
        for field, limit in (("prompt_limit", prompt_limit), ("output_limit", output_limit)):
            if limit is not None:
                _check_at_least_one(field, limit)
        requests = tuple(request.capped(prompt_limit, output_limit) for request in self.requests)
        return replace(self, requests=requests)


def requests_of(workload: Workload) -> list[NewRequest]:
    """The workload's requests for the control plane; request_id is the place in the workload.

    They end by an end-of-text token that the simulated pipeline gives out in time, so that no
    scheduler and no predictor can read a request's length off its max_tokens.
    """
    return [
        NewRequest(
            request_id=index,
            prompt_token_ids=(PLACEHOLDER_TOKEN,) * numbers.prompt_tokens,
            params=SamplingParams(temperature=0.0, max_tokens=None),
            eos_token_ids=(END_TOKEN,),
        )
        for index, numbers in enumerate(workload.requests)
    ]


def timed_requests_of(workload: Workload) -> list[TimedRequest]:
    """The workload's requests with their times of arrival."""
    return [
        TimedRequest(numbers.arrival_s, request)
        for numbers, request in zip(workload.requests, requests_of(workload), strict=True)
    ]


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


def _check_at_least_one(field: str, value: int) -> None:
    if value < 1:
        raise ConfigError(field, value, "give a whole number of at least 1")
