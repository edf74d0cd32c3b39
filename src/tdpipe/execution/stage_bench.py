"""A stopwatch for stages: enters a probe, leave seconds that each stage was busy with it.

A probe is submitted several times back to back, so that all stages work at once as they do in a
run: stages on one machine share its memory bandwidth.
"""

from itertools import pairwise
from statistics import median

from tdpipe.core.limits import Limits
from tdpipe.execution.pipeline_executor import PipelineExecutor
from tdpipe.execution.probe_batches import Probe, ProbeBatches
from tdpipe.tracing.run_trace import StageSpan


class StageBench:
    """Runs probes on a pipeline, through the seam that the engine uses.

    Raises (all methods):
        StageFailed: a stage raised or ended.
    """

    def __init__(self, executor: PipelineExecutor, limits: Limits) -> None:
        self._executor = executor
        self._batches = ProbeBatches(limits)
        self._limits = limits
        executor.settle()
        executor.begin_run()

    def end(self) -> None:
        """Leave the pipeline as if nothing had run."""
        self._executor.settle()
        self._executor.begin_run()

    def busy_s(self, probe: Probe, repeats: int = 1) -> tuple[float, ...]:
        """Each stage's median time on `repeats` or more of the probe, all stages at work."""
        num_stages = self._executor.num_stages
        count = repeats + num_stages
        spans = self._spans(probe, count, at_once=self._executor.depth)
        times = []
        for stage in range(num_stages):
            # The first batch warms up. While the pipeline fills, later stages are idle, and while
            # it drains, earlier ones: what is measured then is undisturbed, so it does not count.
            filled, drained = max(1, num_stages - 1 - stage), count - stage
            times.append(median(one.end_s - one.start_s for one in spans[stage][filled:drained]))
        return tuple(times)

    def link_s(self, num_tokens: int, repeats: int = 5) -> tuple[float, float]:
        """Seconds of a transfer whatever its size, and for each token, from 1 and num_tokens.

        With one batch in the pipeline the next stage has nothing to do but wait, so the time from
        a stage's end (it hands its result to the link) to the next one's start (it has it) is the
        transfer's, waking up included. The stages' clock is the machine's.
        """
        if self._executor.num_stages == 1:
            return 0.0, 0.0
        few_s = self._gap_s(Probe(1, 1), repeats)
        many = Probe(1, num_tokens)
        if num_tokens == 1 or not many.fits(self._limits):
            return few_s, 0.0
        token_s = max(0.0, self._gap_s(many, repeats) - few_s) / (num_tokens - 1)
        return max(0.0, few_s - token_s), token_s

    def _gap_s(self, probe: Probe, repeats: int) -> float:
        spans = self._spans(probe, repeats + 1, at_once=1)
        gaps_s = [
            after.start_s - before.end_s
            for sender, receiver in pairwise(spans)
            for before, after in zip(sender[1:], receiver[1:], strict=True)
        ]
        return max(0.0, median(gaps_s))

    def _spans(self, probe: Probe, count: int, at_once: int) -> list[list[StageSpan]]:
        """The spans of `count` equal batches, by stage, in order of batches."""
        executor = self._executor
        first = len(executor.spans)
        num_out = 0
        for plan in self._batches.plans(probe, count):
            while num_out >= at_once:
                num_out -= len(executor.wait(None))
            executor.submit(plan)
            num_out += 1
        executor.settle()
        new = sorted(executor.spans[first:], key=lambda span: span.batch_id)
        return [
            [span for span in new if span.stage == stage] for stage in range(executor.num_stages)
        ]
