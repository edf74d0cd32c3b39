"""Finished outputs as OpenAI response bodies, and errors as OpenAI error objects."""

from typing import Any

from tdpipe.core.errors import FieldError, TdpipeError
from tdpipe.outputs import CompletionOutput, RequestOutput, TokenLogprob

Body = dict[str, Any]


def chat_body(response_id: str, model: str, created: int, output: RequestOutput) -> Body:
    """A chat.completion object."""
    choices = [
        {
            "index": one.index,
            "message": {"role": "assistant", "content": one.text},
            "logprobs": _chat_logprobs(one),
            "finish_reason": one.finish_reason,
            "stop_reason": one.stop_reason,
        }
        for one in output.outputs
    ]
    return _body(response_id, "chat.completion", model, created, choices, [output])


def completion_body(
    response_id: str, model: str, created: int, outputs: list[RequestOutput]
) -> Body:
    """A text_completion object; several prompts give their choices in order."""
    flat = [one for output in outputs for one in output.outputs]
    choices = [
        {
            "index": index,
            "text": one.text,
            "logprobs": _completion_logprobs(one),
            "finish_reason": one.finish_reason,
            "stop_reason": one.stop_reason,
        }
        for index, one in enumerate(flat)
    ]
    return _body(response_id, "text_completion", model, created, choices, outputs)


def error_object(error: TdpipeError, line: int) -> Body:
    """code, message, the input line's number and, where one field is at fault, param."""
    at_fault = isinstance(error, FieldError)
    return {
        "code": "invalid_request_error" if at_fault else "server_error",
        "message": str(error),
        "param": error.field if isinstance(error, FieldError) else None,
        "line": line,
    }


def _body(
    response_id: str,
    kind: str,
    model: str,
    created: int,
    choices: list[Body],
    outputs: list[RequestOutput],
) -> Body:
    prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    output_tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
    return {
        "id": response_id,
        "object": kind,
        "created": created,
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
        },
    }


def _chat_logprobs(one: CompletionOutput) -> Body | None:
    if one.logprobs is None:
        return None
    return {"content": [_token_object(entry) for entry in one.logprobs]}


def _token_object(entry: TokenLogprob) -> Body:
    top = [_token(text, logprob) for _, text, logprob in entry.top]
    return {**_token(entry.token, entry.logprob), "top_logprobs": top}


def _token(text: str, logprob: float) -> Body:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _completion_logprobs(one: CompletionOutput) -> Body | None:
    if one.logprobs is None:
        return None
    offsets: list[int] = []
    length = 0
    for entry in one.logprobs:
        offsets.append(length)
        length += len(entry.token)
    return {
        "tokens": [entry.token for entry in one.logprobs],
        "token_logprobs": [entry.logprob for entry in one.logprobs],
        "top_logprobs": [{text: lp for _, text, lp in entry.top} for entry in one.logprobs],
        "text_offset": offsets,
    }
