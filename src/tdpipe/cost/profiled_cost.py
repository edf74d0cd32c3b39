"""Stage times from measurements: tables for the dense work, rates for what attention adds.

Enters a profile of every stage, however it was measured; leaves a CostModel. It knows no clock and
no file: `execution/stage_profiler.py` measures, `config/profile_file.py` reads and writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tdpipe.core.errors import ConfigError
from tdpipe.cost.cost_model import BatchLoad
from tdpipe.cost.profile_table import ProfileTable, require_seconds


@dataclass(frozen=True, slots=True)
class StageProfile:
    """What one stage takes.

    Attributes:
        dense: time against the tokens of a batch, without attention pairs and sampled rows.
        decode: time of a decode step against its sequences, as if their context were empty; on
            the last stage with the projection and sampling of their rows.
        pair_s: seconds for a (query, key) pair of prefill attention.
        kv_token_s: seconds for a cached token that decode attention reads.
        row_s: seconds for a sampled row of a batch with prefills.
        projection_s: seconds that such a batch takes for its sampled rows whatever their number:
            the vocabulary's weights are read once.
    """

    dense: ProfileTable
    decode: ProfileTable
    pair_s: float = 0.0
    kv_token_s: float = 0.0
    row_s: float = 0.0
    projection_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("pair_s", "kv_token_s", "row_s", "projection_s"):
            require_seconds(f"profile.{name}", getattr(self, name))

    def time_s(self, load: BatchLoad) -> float:
        """Seconds of a batch: a decode step by its own table, all else as dense work and rates."""
        if not load.prefill_tokens:
            read_s = self.kv_token_s * load.decode_context_tokens
            return self.decode.time_s(load.decode_sequences) + read_s
        time_s = self.dense.time_s(load.prefill_tokens + load.decode_sequences)
        time_s += self.pair_s * load.prefill_pairs + self.kv_token_s * load.decode_context_tokens
        if load.sampled:
            time_s += self.projection_s + self.row_s * load.sampled
        return time_s


@dataclass(slots=True)
class ProfiledCost:
    """CostModel of a partition `layers` (layers per stage) whose stages were measured.

    `engine_s` lies between a batch's end on the last stage and the start on the first one of a
    batch that waits for its result; a simulation takes it as the engine's time for a batch.

    Raises:
        ConfigError: there is not one profile for each stage, or a time is none.
    """

    stages: tuple[StageProfile, ...]
    link_latency_s: float
    link_token_s: float
    layers: tuple[int, ...]
    engine_s: float = 0.0
    num_stages: int = field(init=False)

    def __post_init__(self) -> None:
        if not self.stages or len(self.stages) != len(self.layers):
            fix = f"give one number of layers for each of the {len(self.stages)} stages"
            raise ConfigError("profile.layers", self.layers, fix)
        for name in ("link_latency_s", "link_token_s", "engine_s"):
            require_seconds(f"profile.{name}", getattr(self, name))
        self.num_stages = len(self.stages)

    def stage_time_s(self, stage: int, load: BatchLoad) -> float:
        """Seconds of one batch on `stage`."""
        return self.stages[stage].time_s(load)

    def transfer_time_s(self, num_tokens: int) -> float:
        return self.link_latency_s + num_tokens * self.link_token_s


def whole_model_profile(
    table: ProfileTable,
    layers: Sequence[int],
    kv_token_s: float,
    link_latency_s: float = 0.0,
    link_token_s: float = 0.0,
) -> ProfiledCost:
    """The cost of a partition from one table of the whole model on one device.

    Every stage takes its share of layers of the table's time. Such tables (time against the tokens
    of a batch) hold no read of the KV cache, so decode adds `kv_token_s` for each cached token:
    bytes that a token keeps in all layers over the bandwidth at which attention reads them.

    Raises:
        ConfigError: a stage without layers, or a time that is none.
    """
    if not layers or min(layers) < 1:
        raise ConfigError("layers", tuple(layers), "give every stage at least one layer")
    shares = [count / sum(layers) for count in layers]
    tables = [table.scaled(share) for share in shares]
    stages = tuple(
        StageProfile(dense=part, decode=part, kv_token_s=kv_token_s * share)
        for part, share in zip(tables, shares, strict=True)
    )
    return ProfiledCost(stages, link_latency_s, link_token_s, tuple(layers))
