"""Long jobs are told from short ones before anything is tokenised."""

from tdpipe.replicas.expected_work import ExpectedWork, prompt_tokens_about


def test_what_an_output_is_expected_to_be():
    work = ExpectedWork()
    assert work.of(0, 50, None, 1) == 50  # no more than max_tokens
    assert work.of(0, None, 70, 1) == 70 and work.of(0, 20, 70, 1) == 20
    assert work.of(0, 50, None, 3) == 150
    assert work.of(0, 5000, None, 1, ends_early=False) == 5000  # nothing else ends it
    assert work.of(0, 5000, 70, 1, ends_early=False) == 70  # but perhaps a stop string
    assert work.of(0, None, None, 1, ends_early=False) == work.of(0, None, None, 1)
    assert work.of(100, 50, 5, 1) == 15
    before = work.of(0, None, None, 1)
    for tokens in (10, 30):
        work.ended(tokens)
    assert work.of(0, None, None, 1) == 20 != before
    assert work.of(0, 50, 0, 1) > 0


def test_prompts_by_their_characters():
    assert prompt_tokens_about("four" * 5, None) == 5
    assert prompt_tokens_about([1, 2, 3], None) == 3
    chat = [
        {"role": "user", "content": "x" * 36},
        {"role": "user", "content": [{"text": "y" * 32}]},
    ]
    assert prompt_tokens_about(None, chat) == 19
    assert prompt_tokens_about(5, None) == 0
