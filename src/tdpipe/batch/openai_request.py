"""An OpenAI request body to prompts and sampling parameters.

Both endpoints' parameters are taken, and vLLM's extras. A parameter that would change the result
and is not supported is an error; one that is merely unknown is named to the caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tdpipe.core.errors import RequestRejected
from tdpipe.core.sampling_params import SamplingParams

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ENDPOINTS = (CHAT, COMPLETIONS)

# Body fields that are SamplingParams fields of the same name.
SAMPLING_FIELDS = (
    "n", "max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "stop",
    "stop_token_ids", "ignore_eos",
)  # fmt: skip
OTHER_FIELDS = (
    "model", "messages", "prompt", "max_completion_tokens", "logprobs", "top_logprobs",
    "user", "metadata", "store", "stream", "response_format",
)  # fmt: skip
# Field -> values that change nothing and so are accepted.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "stream": (None, False),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "audio": (None,),
}
COMPLETIONS_MAX_TOKENS = 16  # OpenAI's default; chats run to the end of the context


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """What to run: a conversation, or one prompt or several (texts or token ids)."""

    messages: list[dict[str, Any]] | None
    prompts: list[str | list[int]]
    params: SamplingParams
    unknown_fields: tuple[str, ...]


def parse_body(url: str, body: Mapping[str, Any]) -> ParsedBody:
    """Read the body of a request to `url`.

    Raises:
        RequestRejected: a field is missing, of the wrong type, out of range or not supported.
    """
    for field, harmless in UNSUPPORTED.items():
        if field in body and body[field] not in harmless:
            raise RequestRejected(field, body[field], "not supported: leave it out")
    wanted_format = body.get("response_format")
    if wanted_format is not None and wanted_format != {"type": "text"}:
        raise RequestRejected("response_format", wanted_format, "only text is supported")
    known = {*SAMPLING_FIELDS, *OTHER_FIELDS, *UNSUPPORTED}
    unknown = tuple(sorted(field for field in body if field not in known))
    if url == CHAT:
        messages = [_plain_message(index, one) for index, one in enumerate(_messages(body))]
        return ParsedBody(messages, [], _params(body, None, _chat_logprobs(body)), unknown)
    logprobs = body.get("logprobs")
    params = _params(body, COMPLETIONS_MAX_TOKENS, logprobs)
    return ParsedBody(None, _prompts(body), params, unknown)


def _params(body: Mapping[str, Any], max_tokens: int | None, logprobs: Any) -> SamplingParams:
    values = {name: body[name] for name in SAMPLING_FIELDS if body.get(name) is not None}
    if body.get("max_completion_tokens") is not None:
        values["max_tokens"] = body["max_completion_tokens"]
    values.setdefault("max_tokens", max_tokens)
    for name in ("stop", "stop_token_ids"):
        if name in values and not isinstance(values[name], (str, list)):
            raise RequestRejected(name, values[name], "give a list")
    return SamplingParams(**values, logprobs=logprobs)


def _chat_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if wanted not in (None, True, False):
        raise RequestRejected("logprobs", wanted, "use true or false")
    if top is not None and not wanted:
        raise RequestRejected("top_logprobs", top, "set logprobs to true as well")
    return (top or 0) if wanted else None


def _messages(body: Mapping[str, Any]) -> list[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestRejected("messages", messages, "give a list of at least one message")
    return messages


def _plain_message(index: int, message: Any) -> dict[str, Any]:
    """A message with its content as one string; text parts are joined."""
    field = f"messages[{index}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestRejected(field, message, "give an object with role and content")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        texts = [text for text in parts if isinstance(text, str)]
        if len(texts) != len(content):
            raise RequestRejected(f"{field}.content", content, "only text parts are supported")
        content = "\n".join(texts)
    if not isinstance(content, str):
        raise RequestRejected(f"{field}.content", content, "give the text as a string")
    return {**message, "content": content}


def _prompts(body: Mapping[str, Any]) -> list[str | list[int]]:
    prompt = body.get("prompt")
    fix = "give a string, a list of strings, token ids, or a list of lists of token ids"
    if isinstance(prompt, str):
        many: list[Any] = [prompt]
    elif isinstance(prompt, list) and prompt:
        many = [prompt] if isinstance(prompt[0], int) else prompt
    else:
        raise RequestRejected("prompt", prompt, fix)
    for one in many:
        if not one or not isinstance(one, (str, list)):
            raise RequestRejected("prompt", one, fix)
    return many
