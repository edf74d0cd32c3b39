"""Chat templates: jinja, sandboxed, in the dialect that Hugging Face models are written for."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import TemplateError as RenderError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tdpipe.core.errors import ConfigError, RequestRejected


class ChatTemplate:
    """A compiled chat template with the model's special tokens.

    Raises:
        ConfigError: the template is not valid jinja.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._tokens = special_tokens
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError("chat_template", source, f"not valid jinja ({error})") from None

    def render(self, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
        """The conversation as the model expects it, ending where its answer begins.

        Raises:
            RequestRejected: the messages are malformed, or the template refuses them.
        """
        _check(messages)
        values = {"add_generation_prompt": True, **self._tokens, **variables}
        try:
            return self._template.render(messages=list(messages), **values)
        except (RenderError, TypeError, ValueError) as error:
            fix = f"the model's chat template refuses them: {error}"
            raise RequestRejected("messages", list(messages), fix) from None


class _Generation(Extension):
    """The tag {% generation %}, which marks a trained answer and prints what it contains."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _check(messages: Sequence[dict[str, Any]]) -> None:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise RequestRejected("messages", messages, "give a list of at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise RequestRejected(f"messages[{index}]", message, "give role and content")
        if not isinstance(message.get("role"), str):
            fix = "give system, user or assistant"
            raise RequestRejected(f"messages[{index}].role", message.get("role"), fix)
        if not isinstance(message.get("content"), str):
            fix = "give the text as a string"
            raise RequestRejected(f"messages[{index}].content", message.get("content"), fix)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML, which models have not seen.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
