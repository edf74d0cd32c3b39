"""A profile of a started pipeline: enters an executor that is ready for batches, leaves its cost.

Contrasts between probes separate the terms of `StageProfile`: one long prompt against many short
ones of as many tokens gives the attention pairs, sampled against silent prompts the projection,
decodes over a long against a short context the reads of the KV cache.

Processors change their speed by a third for seconds at a time, where others share them or heat
slows them, and a run lasts through all of it. So all probes are gone through several times, small
ones more often since each is over in an instant. What a turn takes more or less than another on all
probes of a kind is the processor's doing, and is set right before a probe's times are compared; the
profile is that of the processor's mean speed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from tdpipe.core.limits import Limits
from tdpipe.cost.profile_table import rising
from tdpipe.cost.profiled_cost import ProfiledCost, StageProfile
from tdpipe.execution.engine_bench import turnaround_s
from tdpipe.execution.pipeline_executor import PipelineExecutor
from tdpipe.execution.probe_batches import Probe
from tdpipe.execution.stage_bench import StageBench

# A term that noise makes larger than what it is a part of may not eat it up.
LEAST_REMAINDER = 0.1


@dataclass(frozen=True, slots=True)
class ProfileGrid:
    """What is measured.

    Attributes:
        prefill_tokens: lengths of single prompts, rising.
        pair_tokens, short_tokens: a batch of pair_tokens as one prompt, and as short ones.
        row_tokens: tokens of a prompt that is measured sampled and silent.
        rows: prompts of one token that are measured sampled and silent.
        decode_sequences: sizes of decode batches, rising.
        contexts: cached tokens of a decoding sequence, few and many.
        kv_sequences: size of the decode batch that is measured at both contexts.
        link_tokens: tokens in the larger of two batches whose transfer is timed.
        light_tokens: most tokens of a batch that is measured twice in each round.
        rounds: times that all probes are gone through.
    """

    prefill_tokens: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    pair_tokens: int = 512
    short_tokens: int = 64
    row_tokens: int = 8
    rows: int = 64
    decode_sequences: tuple[int, ...] = (1, 2, 4, 6, 8, 16, 32, 64, 256)
    contexts: tuple[int, int] = (64, 512)
    kv_sequences: int = 32
    link_tokens: int = 256
    light_tokens: int = 32
    rounds: int = 3

    # Probes by what they are for; a probe that serves two purposes is measured once.

    def single(self, num_tokens: int) -> Probe:
        return Probe(num_prefills=1, prefill_tokens=num_tokens)

    def pair_contrast(self) -> tuple[Probe, Probe]:
        """Many pairs, few pairs."""
        count = self.pair_tokens // self.short_tokens
        return self.single(self.pair_tokens), Probe(count, self.short_tokens)

    def one_row_contrast(self) -> tuple[Probe, Probe]:
        """One sampled row, none."""
        return Probe(1, self.row_tokens, samples=True), self.single(self.row_tokens)

    def rows_contrast(self) -> tuple[Probe, Probe]:
        """Many sampled rows, none."""
        return Probe(self.rows, 1, samples=True), Probe(self.rows, 1)

    def decode(self, num_sequences: int, context_tokens: int) -> Probe:
        return Probe(num_decodes=num_sequences, context_tokens=context_tokens)

    def kv_contrast(self) -> tuple[Probe, Probe]:
        """A long context, a short one."""
        short, long = self.contexts
        return self.decode(self.kv_sequences, long), self.decode(self.kv_sequences, short)

    def probes(self) -> list[Probe]:
        """All of them, each once, prefills first: they write the cache that decodes read.

        The two probes of a contrast follow each other, so that both find the same state.
        """
        singles = [self.single(count) for count in self.prefill_tokens]
        decodes = [self.decode(count, self.contexts[0]) for count in self.decode_sequences]
        prefills = [*self.one_row_contrast(), *self.rows_contrast(), *singles]
        prefills += self.pair_contrast()
        return list(dict.fromkeys([*prefills, *self.kv_contrast(), *decodes]))


FULL_GRID = ProfileGrid()
# Coarse and over in seconds, for tests.
QUICK_GRID = ProfileGrid(
    prefill_tokens=(8, 32, 64, 128),
    pair_tokens=128,
    short_tokens=16,
    rows=16,
    decode_sequences=(1, 4, 16, 32),
    # A step over so much context takes twice as long as one over little, and no noise hides that.
    contexts=(16, 512),
    kv_sequences=16,
    link_tokens=64,
    rounds=2,
)


def profile_stages(
    executor: PipelineExecutor,
    limits: Limits,
    layers: tuple[int, ...],
    grid: ProfileGrid = FULL_GRID,
) -> ProfiledCost:
    """Measure an idle pipeline whose KV cache is allocated; it forgets what it held.

    Probes that the KV cache or the context limit has no room for are left out, and what only they
    would tell counts as free.

    Raises:
        StageFailed: a stage raised or ended.
    """
    bench = StageBench(executor, limits)
    probes = [probe for probe in grid.probes() if probe.fits(limits)]
    if not any(probe.num_prefills for probe in probes):
        probes.insert(0, Probe(num_prefills=1, prefill_tokens=1))
    if not any(probe.num_decodes for probe in probes):
        probes.append(Probe(num_decodes=1, context_tokens=2))
    times = _measured(bench, probes, grid)
    last = executor.num_stages - 1
    stages = []
    for stage in range(executor.num_stages):
        turns = {probe: [one[stage] for one in found] for probe, found in times.items()}
        stages.append(fit_stage(at_mean_speed(turns), grid, is_last=stage == last))
    latency_s, token_s = bench.link_s(grid.link_tokens)
    bench.end()
    engine_s = turnaround_s(executor, limits, grid.kv_sequences)
    executor.begin_run()
    return ProfiledCost(tuple(stages), latency_s, token_s, layers, engine_s)


def _measured(
    bench: StageBench, probes: list[Probe], grid: ProfileGrid
) -> dict[Probe, list[tuple[float, ...]]]:
    """Each stage's times on each probe, in order of time."""
    light = [probe for probe in probes if probe.load.num_tokens <= grid.light_tokens]
    heavy = [probe for probe in probes if probe not in light]
    middle = len(heavy) // 2
    times: dict[Probe, list[tuple[float, ...]]] = {probe: [] for probe in probes}
    for _ in range(grid.rounds):
        turn = [*heavy[:middle], *light, *heavy[middle:], *light]
        for probe, found in zip(turn, bench.busy_s(turn), strict=True):
            times[probe].append(found)
    return times


def at_mean_speed(turns: Mapping[Probe, Sequence[float]]) -> dict[Probe, float]:
    """One stage's time on each probe, from its times turn by turn.

    A turn's speed is told by all probes of a kind that were measured in the same turns: prefills
    compute, decodes read, and what slows the processor slows them differently.
    """
    groups: dict[tuple[bool, int], list[Probe]] = {}
    for probe, times in turns.items():
        groups.setdefault((probe.num_prefills > 0, len(times)), []).append(probe)
    settled: dict[Probe, float] = {}
    for (_, count), probes in groups.items():
        middle = {probe: median(turns[probe]) for probe in probes}
        slowness = [
            median(turns[probe][turn] / middle[probe] for probe in probes) for turn in range(count)
        ]
        for probe in probes:
            even = [time_s / slow for time_s, slow in zip(turns[probe], slowness, strict=True)]
            settled[probe] = median(even) * fmean(slowness)
    return settled


def fit_stage(times: Mapping[Probe, float], grid: ProfileGrid, is_last: bool) -> StageProfile:
    """Separate the terms of one stage's times."""
    pair_s = _rate_s(times, grid.pair_contrast(), lambda probe: probe.load.prefill_pairs)
    kv_token_s = _rate_s(times, grid.kv_contrast(), lambda probe: probe.load.decode_context_tokens)
    projection_s, row_s = _row_times_s(times, grid) if is_last else (0.0, 0.0)
    dense, decode = {}, {}
    for probe, time_s in times.items():
        load = probe.load
        if probe.num_prefills == 1 and not probe.samples:
            rest_s = time_s - pair_s * load.prefill_pairs
            dense[load.prefill_tokens] = max(rest_s, LEAST_REMAINDER * time_s)
        elif probe.num_decodes and probe.context_tokens != grid.contexts[1]:
            rest_s = time_s - kv_token_s * load.decode_context_tokens
            decode[load.decode_sequences] = max(rest_s, LEAST_REMAINDER * time_s)
    return StageProfile(rising(dense), rising(decode), pair_s, kv_token_s, row_s, projection_s)


def _rate_s(
    times: Mapping[Probe, float],
    contrast: tuple[Probe, Probe],
    amount: Callable[[Probe], int],
) -> float:
    """Seconds per unit by which the two probes differ; 0 if one was not measured."""
    more, less = contrast
    if more not in times or less not in times or amount(more) <= amount(less):
        return 0.0
    return max(0.0, times[more] - times[less]) / (amount(more) - amount(less))


def _row_times_s(times: Mapping[Probe, float], grid: ProfileGrid) -> tuple[float, float]:
    """Seconds that sampling takes whatever the number of rows, and for each row."""
    one = _rate_s(times, grid.one_row_contrast(), lambda probe: probe.load.sampled)
    sampled, silent = grid.rows_contrast()
    if sampled not in times or silent not in times or grid.rows < 2:
        return one, 0.0
    row_s = max(0.0, times[sampled] - times[silent] - one) / (grid.rows - 1)
    return max(0.0, one - row_s), row_s
