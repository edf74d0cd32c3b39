"""An engine gives up jobs that wait, and only those; the others end as if nothing had been."""

import threading

from engine_without_stages import EngineWithoutStages
from factories import make_limits
from tdpipe.core.sampling_params import SamplingParams
from tdpipe.frontend.job_feed import JobFeed
from tdpipe.outputs import Job


def jobs(count, n=1):
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, n=n)
    return [Job(number, [1, 2, 3], None, params, place=number) for number in range(count)]


def outputs(results):
    return {one.key: [each.token_ids for each in one.output.outputs] for one in results}


def test_those_that_wait_are_given_up_and_the_others_end_as_ever():
    # Room for some requests; when the first ends, of one job only one of the two has begun.
    limits = make_limits(num_blocks=17, block_size=8, max_model_len=64)
    whole = outputs(EngineWithoutStages(limits).submit_iter(jobs(30, n=2)))
    engine, taken = EngineWithoutStages(limits), []
    results = engine.submit_iter(jobs(30, n=2))
    found = [next(results)]
    waiting = engine.run._control.state.waiting
    begun = {number for number in range(30) if {2 * number, 2 * number + 1} - waiting.keys()}
    half_begun = {number for number in begun if 2 * number + 1 in waiting}
    waiting[2 * 29].num_preemptions = 1  # it had begun before
    engine.run.take_back(frozenset([*half_begun, *range(15, 40)]), taken.append)
    found += results
    (given,) = taken
    assert half_begun and set(given) == set(range(15, 29)) - begun
    assert not engine.run._intake.accepted
    ended = outputs(found)
    assert len(found) == 30 - len(given) and not set(ended) & set(given)
    assert ended == {key: whole[key] for key in ended}


def test_what_runs_is_kept():
    engine, taken = EngineWithoutStages(), []
    results = engine.submit_iter(jobs(5))
    first = next(results)
    engine.run.take_back(frozenset(range(5)), taken.append)
    assert len([first, *results]) == 5 and taken == [[]]


def test_a_feed_gives_jobs_as_they_come():
    engine, feed = EngineWithoutStages(), JobFeed()
    results = engine.submit_iter(feed)
    for job in jobs(3):
        feed.put(job)
        assert next(results).key == job.key  # though the feed may bring more
    feed.end()
    assert list(results) == []


def test_a_run_that_ends_early_does_not_wait_for_its_feed():
    engine, feed = EngineWithoutStages(), JobFeed()
    results = engine.submit_iter(feed)
    feed.put(jobs(1)[0])
    next(results)
    engine.finish_early(60.0)
    assert list(results) == []
    assert "job-intake" not in {thread.name for thread in threading.enumerate()}
