"""The Python front end in ten lines: two stages, four prompts, outputs in input order."""

from tdpipe import LLM, SamplingParams

PROMPTS = [
    "The capital of France is",
    "Water boils at",
    "A good reason to learn a second language is",
    "def add(a, b):",
]

with LLM("smollm2-135m-instruct", pipeline_parallel_size=2) as llm:
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0.0, max_tokens=24))
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        print(f"{prompt!r} -> {output.outputs[0].text!r}")
    print(llm.summary())
