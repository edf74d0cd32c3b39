"""A stopwatch for stages: enter probes, leave seconds that each stage was busy with each of them.

Batches follow each other without a pause and each probe fills all stages at once, so that all of
them work as they do in a run: stages on one machine share its memory bandwidth.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from tdpipe.core.batch_plan import BatchPlan
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

    def busy_s(self, probes: Sequence[Probe]) -> list[tuple[float, ...]]:
        """Each stage's time on each probe, in one pass over all of them."""
        num_stages = self._executor.num_stages
        # The first batch of decodes brings their block tables, which in a run came long before.
        first = [min(1, probe.num_decodes) for probe in probes]
        plans = [
            self._batches.plans(probe, skipped + num_stages)
            for probe, skipped in zip(probes, first, strict=True)
        ]
        spans = self._spans([plan for group in plans for plan in group], self._executor.depth)
        times = {(span.stage, span.batch_id): span.end_s - span.start_s for span in spans}
        # The last stage's first batch goes with the stage before's second one, and so on.
        return [
            tuple(
                times[stage, group[skipped + num_stages - 1 - stage].batch_id]
                for stage in range(num_stages)
            )
            for group, skipped in zip(plans, first, strict=True)
        ]

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
        plans = self._batches.plans(probe, repeats + 1)
        spans = self._spans(plans, at_once=1)
        stages = [
            [span for span in spans if span.stage == stage]
            for stage in range(self._executor.num_stages)
        ]
        gaps_s = [
            after.start_s - before.end_s
            for sender, receiver in pairwise(stages)
            for before, after in zip(sender[1:], receiver[1:], strict=True)
        ]
        return max(0.0, median(gaps_s))

    def _spans(self, plans: Sequence[BatchPlan], at_once: int) -> list[StageSpan]:
        """The spans of the batches on all stages, in order of batches."""
        executor = self._executor
        first = len(executor.spans)
        num_out = 0
        for plan in plans:
            while num_out >= at_once:
                num_out -= len(executor.wait(None))
            executor.submit(plan)
            num_out += 1
        executor.settle()
        return sorted(executor.spans[first:], key=lambda span: span.batch_id)
