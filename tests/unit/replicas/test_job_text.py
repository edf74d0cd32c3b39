"""Jobs, results and errors come out of a message as they went in."""

import json

import pytest

from tdpipe.batch.openai_response import error_object
from tdpipe.core.errors import (
    CapacityError,
    ConfigError,
    FaultKind,
    InputRejected,
    ReplicaFailed,
    RequestFailed,
    RequestRejected,
    StageFailed,
    TdpipeError,
    TooManyErrors,
)
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.outputs import (
    BatchInFlight,
    CompletionOutput,
    Job,
    Progress,
    RequestOutput,
    TokenLogprob,
)
from tdpipe.replicas import messages
from tdpipe.replicas.job_text import error_from, error_text, job_from, job_text
from tdpipe.replicas.messages import decode_from_replica, decode_to_replica, encode

PARAMS = SamplingParams(
    n=2, max_tokens=None, min_tokens=3, temperature=0.1 + 0.2, top_k=5, top_p=0.9, min_p=0.05,
    repetition_penalty=1.1, presence_penalty=-1.5, frequency_penalty=0.3, seed=-(1 << 62),
    stop=("\n\n", "END"), stop_token_ids=(0, 7), ignore_eos=True, logprobs=4,
)  # fmt: skip
JOBS = [
    Job(0, "a prompt, ünïcode \U0001f600", None, PARAMS, 17, 1 << 40),
    Job(0, [1, 2, 3], None, SamplingParams()),
    Job(0, None, [{"role": "user", "content": "hello"}], SamplingParams(temperature=0.0)),
    # What the engine is to refuse has to reach it.
    Job(0, "lone \ud800 surrogate", None, SamplingParams()),
    Job(0, [10**30, -1, 1.5, True, None], None, SamplingParams()),
    Job(0, {"a": []}, None, SamplingParams()),
    Job(0, None, None, SamplingParams()),
]
STAGE = StageFailed(1, "OSError: x", "Traceback ...", FaultKind.HUNG, 12, 3)
ERRORS = [
    RequestRejected("prompt", "", "give at least one character"),
    RequestRejected("stop_token_ids", 10**30, "use token ids from 0 to 9"),
    RequestRejected("prompt", "\ud800", "cannot be encoded \ud800"),
    RequestRejected("prompt", ("a", 1), "a tuple does not come back from JSON"),
    RequestRejected("prompt", object, "nor does this"),
    RequestRejected("prompt", 10**5000, "no more digits than Python prints"),
    ConfigError("device", "cuda", "use cpu"),
    CapacityError("memory", "5 MiB free", "use less"),
    STAGE,
    ReplicaFailed(2, "its process was killed"),
    RequestFailed(4, STAGE),
    InputRejected(3, 10),
    TooManyErrors(4, 3, "the last"),
    TdpipeError("something"),
]


@pytest.mark.parametrize("job", JOBS, ids=range(len(JOBS)))
def test_jobs(job):
    back = job_from(job_text(job), job.key)
    assert back == job and repr(back) == repr(job)  # True is not 1, 1.0 is not 1


def test_a_job_that_is_no_plain_value_is_refused():
    for prompt in ({1, 2}, [object()]):
        with pytest.raises(RequestRejected, match=r"prompt=.*give plain values"):
            job_text(Job(0, prompt, None, SamplingParams()))
    with pytest.raises(RequestRejected, match=r"messages=.*give plain values"):
        job_text(Job(0, None, [{"role": b"x"}], SamplingParams()))


@pytest.mark.parametrize("error", ERRORS, ids=range(len(ERRORS)))
def test_errors(error):
    """The same type, text and fields, and so the same line of output."""
    message = decode_from_replica(encode(messages.Failed(0, error_text(error))))
    back = error_from(message.error)
    assert type(back) is type(error) and str(back) == str(error)
    assert json.dumps(error_object(back, 3)) == json.dumps(error_object(error, 3))
    if isinstance(error, StageFailed):
        assert vars(back) == vars(error) and type(back.kind) is FaultKind
    if isinstance(error, RequestFailed):
        assert vars(back.last) == vars(error.last) and back.failures == 4


def test_a_long_value_is_shown_as_before():
    error = RequestRejected("prompt", [{1}] * 1000, "too long")
    assert str(error_from(error_text(error))) == str(error)


OUTPUT = RequestOutput(
    3,
    [1, 2],
    [
        CompletionOutput(0, "text é", [5, 6], "stop", None, "END"),
        CompletionOutput(1, "", [7], "length", [TokenLogprob(7, "x", -0.1, ((7, "x", -0.1),))], 9),
    ],
)
PROGRESS = Progress(
    1, 2, 3, 4, "decode", 0.5, 6.0, ended=(("stop", 1),), left_s=None,
    in_flight=(BatchInFlight(1, "decode", 0, 0, 3),), lane_sizes=(1, 2), stage_busy_shares=(0.5,),
)  # fmt: skip
FROM_REPLICA = [
    messages.Described(0, (15, 15), "{}"),
    messages.Ready(1, 64),
    messages.Ended(0, 1, 2, OUTPUT, None),
    messages.Ended(0, 1, 2, None, "{}"),
    messages.Moment(0, 1, PROGRESS),
    messages.GivenBack(0, 1, (1, 2)),
    messages.RunEnded(0, 1, True, 2.5, 3, 4),
    messages.Checked(0, None),
    messages.Said(0, "text"),
    messages.Failed(0, "{}"),
]
TO_REPLICA = [
    messages.Begin(1),
    messages.Jobs((messages.SentJob(0, "{}"),)),
    messages.EndJobs(),
    messages.FinishEarly(float("inf")),
    messages.TakeBack((1, 2)),
    messages.Check("{}"),
    messages.Stop(),
]


@pytest.mark.parametrize("message", FROM_REPLICA, ids=lambda one: type(one).__name__)
def test_messages_from_a_replica(message):
    assert decode_from_replica(encode(message)) == message


@pytest.mark.parametrize("message", TO_REPLICA, ids=lambda one: type(one).__name__)
def test_messages_to_a_replica(message):
    assert decode_to_replica(encode(message)) == message
