"""Stop strings: found in the text as it grows, across token borders."""

from tdpipe.core.request import Request
from tdpipe.text.detokenizer import Decoder, IncrementalDetokenizer


class _Follower:
    """The text of one request, followed token by token."""

    def __init__(self, tokenizer: Decoder) -> None:
        self.detokenizer = IncrementalDetokenizer(tokenizer)
        self.num_tokens = 0
        self.tail = ""
        self.matched: str | None = None


class StopStringChecker:
    """control.StopCondition for stop strings; scans only what each token adds, and a tail."""

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._followers: dict[int, _Follower] = {}

    def finished(self, request: Request) -> bool:
        """Whether a stop string has appeared in output that counts (after min_tokens)."""
        follower = self._followers.get(request.request_id)
        if follower is None:
            follower = self._followers[request.request_id] = _Follower(self._tokenizer)
        new_tokens = request.output_token_ids[follower.num_tokens :]
        follower.num_tokens += len(new_tokens)
        stop = request.params.stop
        text = follower.tail + follower.detokenizer.append(new_tokens)
        follower.tail = text[-max(1, max(map(len, stop)) - 1) :]
        if follower.num_tokens < request.params.min_tokens:
            # What was produced before min_tokens cannot stop the request later either.
            follower.tail = ""
            return False
        follower.matched = first_stop(text, stop)
        return follower.matched is not None

    def matched(self, request_id: int) -> str | None:
        """The stop string that ended a request, if one did."""
        follower = self._followers.get(request_id)
        return follower.matched if follower else None

    def forget(self, request_id: int) -> None:
        """Drop a request that has ended."""
        self._followers.pop(request_id, None)


def first_stop(text: str, stop: tuple[str, ...]) -> str | None:
    """The stop string that begins earliest in the text (the first listed of equals)."""
    places = [(text.find(one), order) for order, one in enumerate(stop) if one in text]
    return stop[min(places)[1]] if places else None


def truncate_at_stop(text: str, stop: str) -> str:
    """The text before the last occurrence of `stop`, which ended it; all of it if there is none."""
    place = text.rfind(stop)
    return text if place < 0 else text[:place]
