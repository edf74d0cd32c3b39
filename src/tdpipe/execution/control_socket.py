"""The sockets between engine and stages: local ones in a private folder, or encrypted TCP.

On one machine the folder's mode keeps others out. Across machines CURVE does (Curve25519, part of
zmq): both sides prove their keys before a single message is taken, and what they say is encrypted.
A stranger's connection ends in the handshake, inside zmq; its bytes never reach the engine.
"""

import zmq
from msgspec import Struct
from zmq.auth.thread import ThreadAuthenticator

# A message is one batch's metadata or samples: a few kB, and far below this.
LONGEST_MESSAGE_BYTES = 64 << 20
# Connections that have not proven themselves by then are cut.
HANDSHAKE_LIMIT_MS = 5000
# zmq's own default.
MOST_WAITING = 1000
ZAP_DOMAIN = "tdpipe"

Socket = zmq.Socket[bytes]


class WorkerKeys(Struct, frozen=True):
    """What a stage process needs to be let in, each 40 characters (Z85).

    `engine` is the engine's public key; the pair is that of the stages of one start.
    """

    engine: bytes
    public: bytes
    secret: bytes


class ControlKeys:
    """The engine's keys for one start of the stages; nobody else's are let in.

    Args:
        context: of the sockets that are to be guarded.
    """

    def __init__(self, context: "zmq.Context[Socket]") -> None:
        self._public, self._secret = zmq.curve_keypair()
        public, secret = zmq.curve_keypair()
        self.of_workers = WorkerKeys(self._public, public, secret)
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(ZAP_DOMAIN, _OneKey(public))

    def guard(self, socket: Socket) -> None:
        """Let only the workers in; before the socket is bound."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._public, self._secret
        socket.zap_domain = ZAP_DOMAIN.encode()

    def close(self) -> None:
        """End the thread that judges connections, before the context ends."""
        self._authenticator.stop()


class _OneKey:
    """The credentials provider of an authenticator: one key is known."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    def callback(self, domain: str, key: bytes) -> bool:
        return key == self._public


def limit_strangers(socket: Socket) -> None:
    """Bound what an unproven connection can cost; before the socket is bound."""
    socket.maxmsgsize = LONGEST_MESSAGE_BYTES
    socket.handshake_ivl = HANDSHAKE_LIMIT_MS


def connect(
    context: "zmq.Context[Socket]",
    kind: int,
    address: str,
    keys: WorkerKeys | None,
    most_waiting: int = MOST_WAITING,
) -> Socket:
    """A stage's socket to the engine; `most_waiting` messages wait in it before it blocks."""
    socket = context.socket(kind)
    socket.set_hwm(most_waiting)
    if keys is not None:
        socket.curve_serverkey = keys.engine
        socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
    socket.connect(address)
    return socket
