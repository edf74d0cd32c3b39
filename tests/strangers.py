"""Connections of strangers to a control port: bytes at random, and frames a stage might send."""

import random
import socket

import zmq

from tdpipe.core.errors import FaultKind
from tdpipe.execution.wire import Alive, Done, Failed, Loaded, encode

# How a zmq connection begins: signature, version 3.1, the name of a mechanism, client.
GREETINGS = [
    b"\xff" + bytes(8) + b"\x7f\x03\x01" + name.ljust(20, b"\0") + bytes(32)
    for name in (b"NULL", b"PLAIN", b"CURVE")
]
FRAMES_PER_CONNECTION = 50
# What would end a run, were it taken.
FORGED = [
    Failed(0, FaultKind.RAISED, "forged", ""),
    Done(1, 0, 0.0, 0.0),
    Loaded(0, 1, 1, 0.0),
    Alive(0),
]


def raw_frames(port: int, count: int, draw: random.Random) -> int:
    """Bytes that begin like zmq's, or not at all so; returns the frames sent."""
    sent = 0
    while sent < count:
        with socket.create_connection(("127.0.0.1", port), 5) as line:
            greeting = draw.choice([*GREETINGS, draw.randbytes(64), b""])
            try:
                line.sendall(greeting)
                for _ in range(FRAMES_PER_CONNECTION):
                    sent += 1
                    line.sendall(zmq_frame(mangled(draw), draw))
            except OSError:  # cut off
                continue
    return sent


def zmq_frame(body: bytes, draw: random.Random) -> bytes:
    """A frame of zmq's, at times with a length that is a lie."""
    size = len(body) if draw.random() < 0.8 else draw.getrandbits(62)
    flags = draw.choice((0, 1, 4))
    if size < 256:
        return bytes([flags, size]) + body
    return bytes([flags | 2]) + size.to_bytes(8, "big") + body


def mangled(draw: random.Random) -> bytes:
    """A message with some of its bytes changed, cut or doubled, or random ones."""
    if draw.random() < 0.3:
        return draw.randbytes(draw.randrange(300))
    body = bytearray(encode(draw.choice(FORGED)))
    for _ in range(draw.randrange(1, 6)):
        body[draw.randrange(len(body))] = draw.randrange(256)
    cut = draw.randrange(len(body) + 1)
    return bytes(body[:cut] if draw.random() < 0.3 else body + body[:cut])


def knock(port: int, seconds: float = 0.5) -> bool:
    """Send forged messages with zmq itself, without keys and with wrong ones; were any taken?

    A socket that is let in takes messages off the sender's hands; one that is not, does not.
    """
    context = zmq.Context()
    server, _ = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    sockets = [context.socket(zmq.PUSH) for _ in range(2)]
    sockets[1].curve_serverkey = server
    sockets[1].curve_publickey, sockets[1].curve_secretkey = public, secret
    monitors = [one.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) for one in sockets]
    for one in sockets:
        one.connect(f"tcp://127.0.0.1:{port}")
        for message in FORGED:
            one.send(encode(message))
    let_in = any(monitor.poll(seconds * 1000) for monitor in monitors)
    context.destroy(linger=0)
    return let_in
