"""A stopwatch for the engine: enters an idle pipeline, leave seconds between a batch and the next.

A few requests decode in one batch after another, so that nothing hides what lies between the end
of a batch on the last stage and the start of the next one on the first: the report to the engine,
its bookkeeping and next plan, and the way of the plan to the stage.
"""

from dataclasses import replace
from statistics import median

from tdpipe.control.arrivals import ScheduledArrivals
from tdpipe.control.control_plane import ControlPlane, NewRequest
from tdpipe.control.engine_loop import drive
from tdpipe.core.block_pool import blocks_for
from tdpipe.core.limits import Limits
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.execution.pipeline_executor import PipelineExecutor
from tdpipe.policies.separate_batching import SeparateBatching
from tdpipe.prediction.max_tokens import MaxTokensPredictor

# Decode steps that are timed; with its prompt of one token a request stays within a small block.
STEPS = 12


def turnaround_s(executor: PipelineExecutor, limits: Limits, num_sequences: int) -> float:
    """Median seconds between decode batches of up to num_sequences; 0 without room for one.

    The executor must be idle; it holds the spans of this run afterwards.

    Raises:
        StageFailed: a stage raised or ended.
    """
    length = 1 + STEPS
    blocks = blocks_for(length, limits.block_size)
    count = min(num_sequences, limits.max_num_seqs, limits.num_blocks // blocks)
    if count < 1 or length > limits.max_model_len:
        return 0.0
    # One batch at a time, as if there was one stage.
    control = ControlPlane(replace(limits, num_stages=1), SeparateBatching(), MaxTokensPredictor())
    params = SamplingParams(temperature=0.0, max_tokens=STEPS, ignore_eos=True)
    requests = [NewRequest(number, (0,), params) for number in range(count)]
    executor.begin_run()
    for _ in drive(control, executor, ScheduledArrivals.all_at_once(requests)):
        pass
    executor.settle()
    last = executor.num_stages - 1
    starts = {span.batch_id: span.start_s for span in executor.spans if span.stage == 0}
    ends = {span.batch_id: span.end_s for span in executor.spans if span.stage == last}
    return max(0.0, median(starts[batch] - ends[batch - 1] for batch in sorted(starts)[1:]))
