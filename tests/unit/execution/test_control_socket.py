"""The engine's sockets: who has the keys is let in, nobody else, and nonsense is left out."""

import random
import time

import pytest
import zmq

from strangers import knock, mangled, raw_frames
from tdpipe.core.errors import FaultKind, StageFailed
from tdpipe.execution.control_socket import ControlKeys, WorkerKeys, connect, limit_strangers
from tdpipe.execution.stage_connection import StageConnection
from tdpipe.execution.wire import Alive, Failed, StageSpec, encode

FUZZ_FRAMES = 10_000


class TcpSite:
    """A site of one rank whose process is the test."""

    rendezvous = ""
    pids: tuple[int, ...] = ()

    def __init__(self, context):
        self._control_keys = ControlKeys(context)
        self.keys = self._control_keys.of_workers
        self.addresses = []

    def bind(self, socket, number):
        limit_strangers(socket)
        self._control_keys.guard(socket)
        socket.bind("tcp://127.0.0.1:*")
        self.addresses.append(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        return self.addresses[-1]

    def launch(self, specs):
        pass

    def ended(self):
        return []

    def end(self, at_once):
        pass

    def close(self):
        self._control_keys.close()


class Launcher:
    def open(self, context):
        self.site = TcpSite(context)
        return self.site


@pytest.fixture
def site_and_connection():
    launcher = Launcher()
    connection = StageConnection(launcher, 1, lambda site, engine, ranks: [spec(site, engine)])
    yield launcher.site, connection
    connection.close(at_once=True)


def spec(site, engine):
    return StageSpec(
        stage=0, num_stages=1, model_folder="", first_layer=0, end_layer=1, dtype="float32",
        device="cpu", cores=(), threads=1, block_size=16, max_model_len=16,
        memory_utilization=0.9, engine_address=engine, stage_address="", rendezvous="", folder="",
        keys=site.keys,
    )  # fmt: skip


@pytest.fixture
def context():
    context = zmq.Context()
    context.linger = 0  # of sockets that are let go with what nobody took
    yield context
    context.destroy(linger=0)


def test_strangers_are_refused(site_and_connection, context):
    """10,000 frames of theirs, then one of a stage's: it is the only one that comes."""
    site, connection = site_and_connection
    port = int(site.addresses[0].rpartition(":")[2])
    draw = random.Random(3)
    assert raw_frames(port, FUZZ_FRAMES, draw) >= FUZZ_FRAMES
    assert not knock(port)
    worker = connect(context, zmq.PUSH, site.addresses[0], site.keys)
    worker.send(encode(Alive(0)))
    assert connection.receive(5.0) == Alive(0)
    assert connection.receive(0.2) is None


def test_the_engines_public_key_is_not_enough(site_and_connection, context):
    """Whoever has seen it needs the stages' own pair, too."""
    site, connection = site_and_connection
    public, secret = zmq.curve_keypair()
    foreign = WorkerKeys(site.keys.engine, public, secret)
    stranger = connect(context, zmq.PUSH, site.addresses[0], foreign)
    stranger.send(encode(Alive(0)))
    assert connection.receive(1.0) is None


def test_orders_go_to_stages_only(site_and_connection, context):
    """A stranger that listens at a rank's address gets nothing."""
    site, connection = site_and_connection
    public, secret = zmq.curve_keypair()
    foreign = WorkerKeys(site.keys.engine, public, secret)
    stranger = connect(context, zmq.PULL, site.addresses[1], foreign)
    plain = connect(context, zmq.PULL, site.addresses[1], None)
    worker = connect(context, zmq.PULL, site.addresses[1], site.keys)
    time.sleep(0.5)
    for _ in range(20):
        connection.broadcast(Alive(0))
    assert all(worker.poll(1000) and worker.recv() for _ in range(20))
    assert not stranger.poll(100) and not plain.poll(0)


def test_nonsense_with_the_right_keys_is_left_out(site_and_connection, context, caplog):
    """One warning for all of it; a message after it still comes."""
    site, connection = site_and_connection
    worker = connect(context, zmq.PUSH, site.addresses[0], site.keys)
    worker.send(b"nonsense")
    worker.send(encode(Alive(7)))  # none of this pipeline's
    worker.send(b"\x91" * 100_000)  # lists in lists
    draw = random.Random(5)
    taken = 0
    for _ in range(FUZZ_FRAMES):
        worker.send(mangled(draw))
        try:
            taken += connection.receive(0.05) is not None
        except StageFailed as failure:  # changed bytes may still be a message
            assert failure.kind in FaultKind
    while connection.receive(0.05) is not None:
        taken += 1
    worker.send(encode(Failed(0, FaultKind.RAISED, "the end", "")))
    with pytest.raises(StageFailed, match="the end"):
        for _ in range(10):
            connection.receive(5.0)
    warned = [record for record in caplog.records if "left out" in record.message]
    assert len(warned) == 1 and taken < FUZZ_FRAMES / 2
