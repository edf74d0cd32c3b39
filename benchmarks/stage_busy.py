"""How busy each stage is while td-pipe decodes, read from the timeline of a real run.

    python benchmarks/stage_busy.py [--requests 128] [--stages 2]

Measures the longest stretch of one decode phase with at least 64 requests resident, from the moment
the pipeline is full. Writes benchmarks/results/stage_busy.json.
"""

import argparse
from pathlib import Path

from result_record import write_result
from tdpipe import LLM, SamplingParams
from tdpipe.reporting.bubbles import busy_shares, decode_window_busy_shares
from workload_lognormal import make_workload

LEAST_RESIDENT, SMOKE_RESIDENT = 64, 16


def main() -> None:
    """Run the workload, report busy shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--scheduler", default="td-pipe")
    parser.add_argument("--timeline", help="also write the Chrome trace here")
    parser.add_argument("--smoke", action="store_true", help="few and short requests")
    parser.add_argument("--folder", type=Path, help="where to write, instead of results/")
    options = parser.parse_args()
    least_resident = LEAST_RESIDENT
    if options.smoke:
        options.requests, least_resident = 32, SMOKE_RESIDENT
    workload = make_workload(options.requests, seed=1, scale=0.15 if options.smoke else 1.0)
    with LLM(
        "smollm2-135m-instruct",
        pipeline_parallel_size=options.stages,
        scheduler=options.scheduler,
        timeline=options.timeline,
    ) as llm:
        llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4))  # kernels are loaded by then
        params = [
            SamplingParams(temperature=0.0, max_tokens=item.output_tokens, ignore_eos=True)
            for item in workload
        ]
        llm.generate([item.prompt for item in workload], params)
        summary, trace = llm.summary(), llm.trace()
    shares, window = decode_window_busy_shares(trace, least_resident)
    figures = {
        "decode_busy_shares": shares,
        "decode_window_s": window[1] - window[0],
        "run_busy_shares": busy_shares(trace),
        "partition": list(summary.partition),
        "output_tokens_per_s": summary.output_tokens_per_s,
        "num_switches": summary.num_switches,
        "bound_share": summary.bound_share,
        "bound_estimated": summary.bound is None or summary.bound.is_estimated,
    }
    settings = {
        "requests": options.requests,
        "stages": options.stages,
        "scheduler": options.scheduler,
        "least_resident": least_resident,
        "smoke": options.smoke,
    }
    write_result("stage_busy", settings, figures, options.folder)
    for stage, share in enumerate(shares):
        print(f"stage {stage}: busy {share:.1%} of {figures['decode_window_s']:.1f} s of decode")
    print(summary)


if __name__ == "__main__":
    main()
