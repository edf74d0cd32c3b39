"""The batches that a stage computes before it is ready, so that none of a run waits for a compiler.

Kernels compile at their first use, for seconds on a new machine. As part of a run they would keep
every stage behind the first idle, and throughput would be told with the compiler's time in it.
"""

from tdpipe.core.batch_plan import BatchPlan, Phase, SequenceSlice


def warm_up_plans(block_size: int) -> tuple[BatchPlan, BatchPlan]:
    """A prefill of one block and a decode of its last token, all in block 0, which is free."""
    prompt = SequenceSlice(0, 0, (0,) * block_size, (0,), samples=True)
    last = SequenceSlice(0, block_size - 1, (0,), (), samples=True)
    return _plan(Phase.PREFILL, prompt), _plan(Phase.DECODE, last)


def _plan(phase: Phase, piece: SequenceSlice) -> BatchPlan:
    num_prefills = int(phase is Phase.PREFILL)
    return BatchPlan(0, phase, num_prefills, (piece,), (), (), "warm-up")
