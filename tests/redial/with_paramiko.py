"""A connection that outlives its upstream: `with_paramiko.py PORT USER IDENTITY DIRECTORY`."""

import os
import socket
import sys
import threading
import time

import paramiko

PORT, USER, IDENTITY, DIRECTORY = int(sys.argv[1]), *sys.argv[2:5]
DEADLINE = 60


def lose():
    """Has the upstream lost."""
    path = os.path.join(DIRECTORY, "lose")
    open(path, "w").close()
    deadline = time.monotonic() + DEADLINE
    while os.path.exists(path):
        assert time.monotonic() < deadline, "nobody took notice"
        time.sleep(0.01)


def echo(channel, origin, server):
    """Serves a connection of the remote forward."""

    def serve():
        channel.sendall(channel.recv(100))
        channel.close()

    threading.Thread(target=serve, daemon=True).start()


def echoes(port):
    try:
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as peer:
            peer.sendall(b"hello")
            return peer.recv(100) == b"hello"
    except OSError:
        return False


def eventually(what, is_done):
    deadline = time.monotonic() + DEADLINE
    while not is_done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.WarningPolicy())
client.connect("127.0.0.1", PORT, USER, key_filename=IDENTITY, allow_agent=False, look_for_keys=False)
transport = client.get_transport()
transport.set_keepalive(1)
port = transport.request_port_forward("127.0.0.1", 0, echo)
sftp = client.open_sftp()
assert echoes(port)

for round in range(2):
    stdin, stdout, stderr = client.exec_command("echo out; exec cat", timeout=DEADLINE)
    assert stdout.readline() == "out\n"
    lose()
    assert stdout.read() == b""
    said = stderr.read()
    assert said.startswith(b"ssmshim: the "), said
    assert stdout.channel.recv_exit_status() == -1
    assert transport.is_active()

    stdin, stdout, stderr = client.exec_command("cat; exit 5", timeout=DEADLINE)
    stdin.write("in")
    stdin.channel.shutdown_write()
    assert stdout.read() == b"in"
    assert stdout.channel.recv_exit_status() == 5
    eventually("the remote forward is back", lambda: echoes(port))

    try:
        sftp.stat("/")
        raise SystemExit("an sftp session outlived its server")
    except (EOFError, OSError):
        pass
    sftp = client.open_sftp()
    sftp.stat("/")

transport.cancel_port_forward("127.0.0.1", port)
client.close()
