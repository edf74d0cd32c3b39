"""A moment of several replicas' runs as one."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from tdpipe.outputs import Progress


class PoolProgress:
    """Keeps each replica's latest moment; counts of tokens stay when a replica is lost."""

    def __init__(self) -> None:
        self._moments: dict[int, Progress] = {}

    def take(self, replica: int, progress: Progress) -> None:
        """A replica's moment."""
        self._moments[replica] = progress

    def moment(
        self,
        living: Collection[int],
        num_finished: int,
        num_failed: int,
        num_requests: int,
        elapsed_s: float,
    ) -> Progress:
        """All as one: numbers and rates are sums, the cache's use a mean, time left the longest.

        Stages and lanes stand one replica after the other.

        Args:
            num_finished, num_failed, num_requests: jobs, as the pool counts them.
        """
        every = [self._moments[replica] for replica in sorted(self._moments)]
        now = [self._moments[replica] for replica in sorted(living) if replica in self._moments]
        phases = Counter(one.phase for one in now if one.phase)
        left = [one.left_s for one in now if one.left_s is not None]
        ended: Counter[str] = Counter()
        for one in every:
            ended.update(dict(one.ended))
        return Progress(
            num_finished=num_finished,
            num_requests=num_requests,
            num_prompt_tokens=sum(one.num_prompt_tokens for one in every),
            num_output_tokens=sum(one.num_output_tokens for one in every),
            phase=phases.most_common(1)[0][0] if phases else "",
            kv_used_share=sum(one.kv_used_share for one in now) / max(1, len(now)),
            elapsed_s=elapsed_s,
            num_failed=num_failed,
            num_restarts=sum(one.num_restarts for one in every),
            num_preemptions=sum(one.num_preemptions for one in every),
            num_waiting=sum(one.num_waiting for one in now),
            num_running=sum(one.num_running for one in now),
            prefilled_tokens=sum(one.prefilled_tokens for one in every),
            recomputed_tokens=sum(one.recomputed_tokens for one in every),
            entered_prompt_tokens=sum(one.entered_prompt_tokens for one in every),
            ended=tuple(ended.items()),
            recent_tokens_per_s=sum(one.recent_tokens_per_s for one in now),
            left_s=max(left, default=None),
            in_flight=tuple(
                replace(batch, stage=batch.stage + place * len(one.stage_busy_shares))
                for place, one in enumerate(now)
                for batch in one.in_flight
            ),
            lane_sizes=tuple(size for one in now for size in one.lane_sizes),
            stage_busy_shares=tuple(share for one in now for share in one.stage_busy_shares),
        )
