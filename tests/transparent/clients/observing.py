"""What the Python clients have in common: showing bytes, and small peers to forward to."""

import hashlib
import random
import socket
import sys
import threading

# The longest that anything may take.
DEADLINE = 30


def show(label, value=""):
    """Prints an observation."""
    print(f"{label}: {shown(value)}", flush=True)


def shown(value):
    if isinstance(value, (bytes, bytearray)):
        if len(value) > 2000:
            return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()}"
        return repr(bytes(value))
    if isinstance(value, Exception):
        return f"{type(value).__name__} {value.args!r}"
    return repr(value)


def noise(size, seed=1):
    """Bytes that do not compress, the same for each seed."""
    return random.Random(seed).randbytes(size)


class Echo:
    """A server that sends back what it gets, and its end of file."""

    def __init__(self, path=None):
        if path is None:
            self.listener = socket.create_server(("127.0.0.1", 0))
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(path)
            self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self):
        return self.listener.getsockname()[1]

    def _accept(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    @staticmethod
    def _talk(peer):
        with peer:
            while data := peer.recv(65536):
                peer.sendall(data)


def closed_port():
    """A loopback port that nothing listens on: bound, so that nobody else takes it."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    closed_port.holders.append(holder)
    return holder.getsockname()[1]


closed_port.holders = []


def exchange(port, data):
    """Sends `data` to a loopback port and returns what comes back until the end of file."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as peer:
        sender = threading.Thread(target=_send, args=(peer, data))
        sender.start()
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
        sender.join()
        return answer


def _send(peer, data):
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


def arguments():
    """The case and where to log in: CASE PORT USER IDENTITY DIRECTORY."""
    case, port, user, identity, directory = sys.argv[1:]
    return case, int(port), user, identity, directory
