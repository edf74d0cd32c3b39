"""How one request is sampled and when it ends. Names and defaults are those of vLLM and OpenAI."""

from dataclasses import dataclass

from tdpipe.core.errors import RequestRejected

MAX_LOGPROBS = 20
# Whole numbers travel to the stages in 64 bits.
INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling settings of a request.

    Attributes:
        n: completions per prompt.
        max_tokens: output tokens at most; None means as many as the model's context allows.
        min_tokens: output tokens before an end-of-text or stop token may be sampled.
        temperature: 0 is greedy decoding.
        top_k: keep the k likeliest tokens; 0 or -1 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches top_p.
        min_p: drop tokens below min_p times the likeliest token's probability.
        repetition_penalty: divides (multiplies) positive (negative) logits of seen tokens.
        presence_penalty, frequency_penalty: subtracted once, or once per occurrence, from the
            logits of tokens already in the output.
        seed: fixes the request's random draws, whatever batch it runs in; None lets the engine
            choose one from its own seed and the request's place in the input.
        stop: strings that end the output (not included in it).
        stop_token_ids: token ids that end the output, beside the model's end-of-text tokens.
        ignore_eos: go on after an end-of-text token, up to max_tokens.
        logprobs: report the log probability of each output token, and of this many likeliest
            alternatives (0 to 20); None reports none.

    Raises:
        RequestRejected: a value is out of its range; the message names field, value and fix.
    """

    n: int = 1
    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        self._check_counts()
        self._check_ranges()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    def _check_counts(self) -> None:
        _require_int("n", self.n, 1, None, "ask for 1 or more completions")
        if self.max_tokens is not None:
            _require_int("max_tokens", self.max_tokens, 1, None, "use 1 or more, or None")
        _require_int("min_tokens", self.min_tokens, 0, None, "use 0 or more")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            fix = f"use at most max_tokens={self.max_tokens}"
            raise RequestRejected("min_tokens", self.min_tokens, fix)
        _require_int("top_k", self.top_k, -1, None, "use 1 or more, or 0 to keep all tokens")
        if self.seed is not None:
            _require_int("seed", self.seed, None, None, "use a whole number")
        if self.logprobs is not None:
            fix = f"use 0 to {MAX_LOGPROBS}"
            _require_int("logprobs", self.logprobs, 0, MAX_LOGPROBS, fix)
        for token_id in self.stop_token_ids:
            _require_int("stop_token_ids", token_id, 0, None, "use token ids, 0 or more")

    def _check_ranges(self) -> None:
        _require_number("temperature", self.temperature, 0.0, 100.0, "use 0 (greedy) to 100")
        _require_number("top_p", self.top_p, 0.0, 1.0, "use more than 0, up to 1")
        if self.top_p == 0.0:
            raise RequestRejected("top_p", self.top_p, "use more than 0, up to 1")
        _require_number("min_p", self.min_p, 0.0, 1.0, "use 0 to 1")
        _require_number("presence_penalty", self.presence_penalty, -2.0, 2.0, "use -2 to 2")
        _require_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0, "use -2 to 2")
        _require_number("repetition_penalty", self.repetition_penalty, 1e-3, 1e3, "use about 1")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RequestRejected("stop", text, "use strings of one character or more")
        if not isinstance(self.ignore_eos, bool):
            raise RequestRejected("ignore_eos", self.ignore_eos, "use true or false")


def _require_int(field: str, value: object, low: int | None, high: int | None, fix: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not -INT64 <= value < INT64:  # type: ignore[operator]
        raise RequestRejected(field, value, fix)
    assert isinstance(value, int)
    if (low is not None and value < low) or (high is not None and value > high):
        raise RequestRejected(field, value, fix)


def _require_number(field: str, value: object, low: float, high: float, fix: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestRejected(field, value, fix)
    if not low <= value <= high:  # also refuses NaN
        raise RequestRejected(field, value, fix)
