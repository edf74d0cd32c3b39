"""Stop strings: found in the text as it grows, across token borders."""

from tdpipe.core.request import Request
from tdpipe.text.detokenizer import Decoder, IncrementalDetokenizer


class _Follower:
    """The text of one request, followed token by token."""

    __slots__ = ("detokenizer", "matched", "matched_at", "num_characters", "num_tokens", "tail")

    def __init__(self, tokenizer: Decoder) -> None:
        self.detokenizer = IncrementalDetokenizer(tokenizer)
        self.num_tokens = 0
        self.num_characters = 0
        self.tail = ""  # the last characters: one less than the longest stop string
        self.matched: str | None = None
        self.matched_at: int | None = None


class StopStringChecker:
    """control.StopCondition for stop strings; scans only what each token adds, and a tail.

    Special tokens have no text here, as in the final output.
    """

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._followers: dict[int, _Follower] = {}

    def finished(self, request: Request) -> bool:
        """Whether the newest token completed a stop string, and enough tokens (min_tokens) exist.

        A stop string completed too early is passed over for good.
        """
        follower = self._followers.get(request.request_id)
        if follower is None:
            follower = self._followers[request.request_id] = _Follower(self._tokenizer)
        new_tokens = request.output_token_ids[follower.num_tokens :]
        follower.num_tokens += len(new_tokens)
        new_text = follower.detokenizer.append(new_tokens)
        if follower.num_tokens >= request.params.min_tokens:
            _match(follower, new_text, request.params.stop)
        _extend(follower, new_text, max(map(len, request.params.stop)) - 1)
        return follower.matched is not None

    def matched(self, request_id: int) -> str | None:
        """The stop string that ended a request, if one did."""
        follower = self._followers.get(request_id)
        return follower.matched if follower else None

    def matched_at(self, request_id: int) -> int | None:
        """Where in the output text that stop string begins, in characters."""
        follower = self._followers.get(request_id)
        return follower.matched_at if follower else None

    def forget(self, request_id: int) -> None:
        """Drop a request that has ended."""
        self._followers.pop(request_id, None)


def _match(follower: _Follower, new_text: str, stop: tuple[str, ...]) -> None:
    if follower.matched is not None or not new_text:
        return
    tail = follower.tail
    found = first_stop(tail + new_text, stop, len(tail))
    if found is not None:
        place, follower.matched = found
        follower.matched_at = follower.num_characters - len(tail) + place


def _extend(follower: _Follower, new_text: str, num_kept: int) -> None:
    follower.num_characters += len(new_text)
    follower.tail = (follower.tail + new_text)[-num_kept:] if num_kept else ""


def first_stop(text: str, stop: tuple[str, ...], after: int = 0) -> tuple[int, str] | None:
    """Where the earliest stop string that ends beyond text[:after] begins, and which it is.

    Of those that begin together it is the first listed.
    """
    places = [text.find(one, max(0, after - len(one) + 1)) for one in stop]
    found = [(place, order) for order, place in enumerate(places) if place >= 0]
    if not found:
        return None
    place, order = min(found)
    return place, stop[order]


def truncate_at_stop(text: str, stop: str, search_from: int = 0) -> str:
    """The text before `stop`; all of it if it does not occur.

    Where min_tokens made the checker pass over earlier occurrences, `search_from` must be its
    `matched_at`.
    """
    place = text.find(stop, search_from)
    return text if place < 0 else text[:place]
