"""transformers' greedy continuations, and how tdpipe's outputs are held against them."""

import torch

MODEL = "smollm2-135m-instruct"
NUM_PROMPTS, NUM_TOKENS = 64, 96
# Of these, every eighth prompt and fewer tokens do for each change; --all-prompts takes all.
SAMPLE_STEP, SAMPLE_TOKENS = 8, 40
# Of layouts that differ from those tested at length in where their processes run.
FEW_TOKENS = 16
# Where the two best logits are closer than this, either token is right.
TIE = 1e-4


def continuations(model, prompts, num_tokens):
    """(tokens, gap between the two best logits at each step) of each prompt, in one batch."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    out = model.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(out.logits).topk(2, dim=-1).values  # [steps, prompts, 2]
    gaps = (best[..., 0] - best[..., 1]).T.tolist()
    return list(zip(out.sequences[:, longest:].tolist(), gaps, strict=True))


def shortened(reference, num_tokens):
    """The beginnings of the answers, where that is enough."""
    return [(tokens[:num_tokens], gaps[:num_tokens]) for tokens, gaps in reference]


def differences(outputs, reference):
    """Real differences, and those that begin at a tie: lists of (prompt, step)."""
    wrong, ties = [], []
    for index, (output, (tokens, gaps)) in enumerate(zip(outputs, reference, strict=True)):
        got = output.outputs[0].token_ids
        assert len(got) == len(tokens)
        step = next(
            (i for i, pair in enumerate(zip(got, tokens, strict=True)) if len(set(pair)) > 1), None
        )
        if step is not None:
            (ties if gaps[step] < TIE else wrong).append((index, step))
    return wrong, ties
