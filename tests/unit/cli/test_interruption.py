"""One signal asks the engine to finish, a second one stops; nothing stays behind."""

import os
import signal

import pytest

from tdpipe.cli.interruption import SIGNALS, Interruption


@pytest.mark.parametrize("number", SIGNALS)
def test_once_and_twice(number):
    before, asked, said = signal.getsignal(number), [], []

    def finish_early(grace_s):
        asked.append(grace_s)
        return True

    with Interruption(finish_early, 7.0, said.append) as interruption:
        assert not interruption.happened
        os.kill(os.getpid(), number)
        assert interruption.happened and asked == [7.0] and "7 s" in said[0]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert asked == [7.0]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_nothing_to_finish(number):
    with (
        Interruption(lambda grace_s: False, 7.0, lambda text: None) as interruption,
        pytest.raises(KeyboardInterrupt),
    ):
        os.kill(os.getpid(), number)
    assert interruption.happened
