"""Requests under suspicion of making stages fail, each tried in batches of its own.

A trial computes what a preempted request needs anyway: its prompt and its tokens so far, in chunks
of max_num_batched_tokens, and the next token. One batch is on its way at a time, so that a failure
leaves no doubt whose it is.
"""

from collections import deque
from collections.abc import Iterable

from tdpipe.core.engine_state import EngineState
from tdpipe.core.request import Request
from tdpipe.policies.policy import Choice
from tdpipe.policies.prefill_draft import PrefillDraft


class SuspectTrials:
    """The suspects that are still to be tried; true while there are any.

    `current` is the request on trial, None before the first.
    """

    def __init__(self, suspects: Iterable[int] = ()) -> None:
        self.current: int | None = None
        self._left = deque(suspects)

    def __bool__(self) -> bool:
        return self.current is not None or bool(self._left)

    @property
    def untried(self) -> list[int]:
        """The suspects whose trial has not ended."""
        return [*([] if self.current is None else [self.current]), *self._left]

    def passed(self, state: EngineState) -> Request | None:
        """The request on trial, if all of it has been computed now and it has not ended."""
        if self.current is None:
            return None
        request = state.resident.get(self.current)
        if request is not None and request.is_prefilling:
            return None
        self.current = None
        return request

    def choice(self, state: EngineState) -> Choice | None:
        """The next batch of a trial; None when all are done. Nothing is in flight then."""
        while self.current is None and self._left:
            suspect = self._left.popleft()
            if suspect in state.waiting:
                self.current = suspect
        if self.current is None:
            return None
        request = state.resident.get(self.current) or state.waiting[self.current]
        draft = PrefillDraft(state)
        num_tokens = min(draft.tokens_left(request), state.limits.max_num_batched_tokens)
        draft.add(request, num_tokens)
        return Choice(prefills=tuple(draft.chunks), reason="suspect alone")
