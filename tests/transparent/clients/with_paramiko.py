"""What a user of paramiko sees: `with_paramiko.py CASE PORT USER IDENTITY DIRECTORY`."""

import os
import socket
import stat
import threading

import paramiko
from observing import DEADLINE, Echo, arguments, closed_port, exchange, noise, show

CASE, PORT, USER, IDENTITY, DIRECTORY = arguments()


def connect(prepare=lambda transport: None):
    transport = paramiko.Transport(("127.0.0.1", PORT))
    transport.auth_timeout = transport.banner_timeout = DEADLINE
    prepare(transport)
    transport.start_client(timeout=DEADLINE)
    transport.auth_publickey(USER, paramiko.Ed25519Key.from_private_key_file(IDENTITY))
    return transport


def session(transport, **options):
    channel = transport.open_session(timeout=DEADLINE, **options)
    channel.settimeout(DEADLINE)
    return channel


def read(stream):
    """Reads `channel.recv` or `channel.recv_stderr` to its end."""
    return b"".join(iter(lambda: stream(65536), b""))


def read_until(channel, end):
    data = b""
    while not data.endswith(end):
        data += channel.recv(1) or exit(f"no {end!r} in {data!r}")
    return data


def execute(transport, command, stdin=b"", **options):
    """Runs a command; returns its stdout, stderr and status."""
    channel = session(transport, **options)
    channel.exec_command(command)
    stderr = []
    sender = threading.Thread(target=lambda: (channel.sendall(stdin), channel.shutdown_write()))
    reader = threading.Thread(target=lambda: stderr.append(read(channel.recv_stderr)))
    sender.start()
    reader.start()
    stdout = read(channel.recv)
    reader.join()
    sender.join()
    return stdout, stderr[0], channel.recv_exit_status()


def failure(label, action):
    """Shows the exception that `action` must raise."""
    try:
        result = action()
    except Exception as error:
        show(label, error)
    else:
        exit(f"{label} did not fail: {result!r}")


def commands():
    transport = connect()
    for command in [
        "true",
        "exit 255",
        "no-such-command-anywhere",
        "echo out; echo err >&2; exit 3",
        b"printf '%s' '\xff\xfe\x80' \xc3\xa4",
        "printf '\\000\\001\\377'; printf '\\377\\000' >&2",
        "kill -TERM $$",
        "kill -KILL $$",
        "#" * 100_000,
    ]:
        show(str(command)[:60], execute(transport, command))
    show("still", transport.is_active())


def bulk():
    data = noise(3 << 20)
    transport = connect()
    stdout, stderr, status = execute(transport, "tee /dev/stderr; exit 5", data)
    show("stdout", stdout)
    show("stderr", stderr)
    show("status", status)


def small_windows():
    """Windows and packets much smaller than OpenSSH's own."""
    transport = connect()
    data = noise(300_000)
    for window, packet in [(32768, 4096), (65536, 40000), (100_001, 32769)]:
        options = {"window_size": window, "max_packet_size": packet}
        show(f"{window} {packet}", execute(transport, "cat", data, **options)[0])


def half_close():
    """The command answers after the end of its input only."""
    show("count", execute(connect(), "wc -c; echo then >&2; exit 4", b"12345" * 1000))
    channel = session(connect())
    channel.exec_command("exec <&-; echo closed; sleep 0.1; echo open; exit 2")
    show("stdin closed by the command", (read(channel.recv), channel.recv_exit_status()))


def unread_output():
    """Nobody reads until others have come and gone on the same connection."""
    transport = connect()
    lazy = session(transport)
    lazy.exec_command("head -c 6000000 /dev/zero; echo done >&2; exit 6")
    show("beside", execute(transport, "echo beside")[0])
    show("stdout", read(lazy.recv))
    show("stderr", read(lazy.recv_stderr))
    show("status", lazy.recv_exit_status())


def environment():
    channel = session(connect())
    channel.set_environment_variable("LC_TEST", "wert mit \u00e4")
    channel.set_environment_variable("NOT_ACCEPTED", "value")
    channel.exec_command("echo $LC_TEST; echo -$NOT_ACCEPTED-")
    show("variables", read(channel.recv))


def terminal():
    channel = session(connect())
    channel.get_pty("vt220", 101, 43, 1010, 860)
    channel.exec_command("echo $TERM; stty size; read line; stty size; read line; exit 9")
    show("begins", read_until(channel, b"43 101\r\n"))
    channel.resize_pty(77, 22)
    channel.send(b"first\n")
    show("resized", read_until(channel, b"22 77\r\n"))
    channel.send(b"second\n")
    show("rest", read(channel.recv))
    show("stderr", read(channel.recv_stderr))
    show("status", channel.recv_exit_status())

    channel = session(connect())
    channel.get_pty()
    channel.exec_command("stty -echo; trap 'echo interrupted; exit 8' INT; echo ready; cat")
    show("begins", read_until(channel, b"ready\r\n"))
    channel.send(b"\x03")
    show("rest", read(channel.recv).replace(b"^C", b""))
    show("status", channel.recv_exit_status())


def shell():
    """A login shell at a terminal, and one without."""
    channel = session(connect())
    channel.get_pty("dumb", 100, 50)
    channel.invoke_shell()
    channel.send(b"exec sh -c 'stty -echo; echo be\"\"gin; read line; eval \"$line\"'\n")
    read_until(channel, b"begin\r\n")
    channel.send(b"tty -s && echo a terminal; echo $TERM; stty size; exit 7\n")
    show("at a terminal", read(channel.recv))
    show("status", channel.recv_exit_status())

    channel = session(connect())
    channel.invoke_shell()
    channel.sendall(b"echo out; tty; exit 11\n")
    show("without", read(channel.recv))
    show("status", channel.recv_exit_status())


def sftp_files():
    sftp = paramiko.SFTPClient.from_transport(connect())
    top = f"{DIRECTORY}paramiko"
    sftp.mkdir(top, 0o750)
    sftp.chdir(top)
    show("where", sftp.getcwd())
    with sftp.open("file", "wb") as file:
        file.write(b"0123456789")
        file.seek(4)
        file.write(b"four")
        file.truncate(9)
    sftp.chmod("file", 0o640)
    sftp.utime("file", (1_000_000_000, 1_100_000_000))
    sftp.symlink("file", "link")
    sftp.rename("file", "renamed")
    sftp.posix_rename("renamed", "file")
    sftp.mkdir("\u00e4 b")
    with sftp.open("file", "a+") as file:
        file.write("appended")
    with sftp.open("file", "rb") as file:
        show("content", file.read())
        show("pieces", list(file.readv([(0, 3), (5, 4)])))
        file.seek(2)
        show("from 2", file.read(3))
    show("link", (sftp.readlink("link"), sftp.normalize("../paramiko/./link")))
    show("mode", oct(sftp.stat("file").st_mode))
    show("length", sftp.lstat("link").st_size)
    for entry in sorted(sftp.listdir_attr("."), key=lambda entry: entry.filename):
        size = 0 if stat.S_ISDIR(entry.st_mode) else entry.st_size
        show("entry", (entry.filename, oct(entry.st_mode), size))
    failure("missing", lambda: sftp.stat("missing"))
    failure("taken", lambda: sftp.mkdir("file"))
    failure("not empty", lambda: sftp.rmdir(".."))
    failure("no directory", lambda: sftp.listdir("file"))
    failure("rename over", lambda: sftp.rename("link", "file"))
    failure("unwritable", lambda: sftp.open("..", "w"))
    sftp.rmdir("\u00e4 b")
    sftp.remove("link")
    show("left", sorted(sftp.listdir()))


def sftp_bulk():
    """Pipelined writes and prefetched reads."""
    data = noise(4 << 20)
    there, back = f"{DIRECTORY}there", f"{DIRECTORY}back"
    with open(f"{DIRECTORY}here", "wb") as file:
        file.write(data)
    sftp = paramiko.SFTPClient.from_transport(connect())
    steps = []
    sftp.put(f"{DIRECTORY}here", there, callback=lambda done, total: steps.append(done))
    show("put", (steps[-1], sftp.stat(there).st_size))
    sftp.get(there, back)
    with open(back, "rb") as file:
        show("got", file.read())
    with sftp.open(there, "rb") as file:
        file.prefetch()
        show("prefetched", file.read())
    with sftp.open(f"{DIRECTORY}pipelined", "wb") as file:
        file.set_pipelined(True)
        for start in range(0, len(data), 10_001):
            file.write(data[start : start + 10_001])
    with open(f"{DIRECTORY}pipelined", "rb") as file:
        show("pipelined", file.read())


def open_tcp(transport, port, host="127.0.0.1"):
    return transport.open_channel("direct-tcpip", (host, port), ("192.0.2.7", 4711), timeout=DEADLINE)


def local_forward():
    data = noise(1 << 20)
    transport = connect()
    for host in ["127.0.0.1", "localhost"]:
        channel = open_tcp(transport, Echo().port, host)
        channel.settimeout(DEADLINE)
        sender = threading.Thread(target=lambda: (channel.sendall(data), channel.shutdown_write()))
        sender.start()
        show(host, read(channel.recv))
        sender.join()
    failure("refused", lambda: open_tcp(transport, closed_port()))
    failure("unknown", lambda: open_tcp(transport, 22, "no-such-host.invalid"))
    show("still", execute(transport, "echo works")[0])


def remote_forward():
    data = noise(500_000)
    transport = connect()
    port = transport.request_port_forward("127.0.0.1", 0)
    answers = []
    client = threading.Thread(target=lambda: answers.append(exchange(port, data)))
    client.start()
    channel = transport.accept(DEADLINE)
    channel.settimeout(DEADLINE)
    show("from", channel.origin_addr[0])
    while part := channel.recv(65536):
        channel.sendall(part)
    channel.shutdown_write()
    channel.close()
    client.join()
    show("echo", answers[0])
    failure("taken", lambda: transport.request_port_forward("127.0.0.1", port))
    transport.cancel_port_forward("127.0.0.1", port)
    show("settled", transport.global_request("keepalive@openssh.com") is None)
    failure("cancelled", lambda: socket.create_connection(("127.0.0.1", port)))


def failures():
    transport = connect()
    failure("channel type", lambda: transport.open_channel("nobody@example.com", timeout=DEADLINE))
    failure("x11 channel", lambda: transport.open_channel("x11", src_addr=("127.0.0.1", 1), timeout=DEADLINE))
    failure("subsystem", lambda: session(transport).invoke_subsystem("no-such-subsystem"))
    failure("x11", lambda: session(transport).request_x11())
    busy = session(connect())
    busy.exec_command("cat")
    failure("second command", lambda: busy.exec_command("true"))
    show("still", execute(transport, "echo works")[0])


def global_requests():
    transport = connect()
    for name in ["keepalive@openssh.com", "keepalive@lag.net", "nobody@example.com"]:
        show(name, transport.global_request(name, wait=True))
    show("no reply wanted", transport.global_request("nobody@example.com", wait=False))
    transport.send_ignore(1000)
    transport.set_keepalive(1)
    show("still", execute(transport, "sleep 1.2; echo works")[0])


def rekey():
    """A key exchange for each MiB, begun by the client, while bytes flow both ways.

    The command ends after the last of them: a CLOSE that comes during an exchange locks paramiko up.
    """
    data = noise(6 << 20)
    transport = connect(lambda transport: setattr(transport.packetizer, "REKEY_BYTES", 1 << 20))
    begun = []
    begin = transport._send_kex_init
    transport._send_kex_init = lambda: (begun.append(1), begin())
    channel = session(transport)
    channel.exec_command("cat; exit 3")
    sender = threading.Thread(target=lambda: channel.sendall(data))
    sender.start()
    echo = b""
    while len(echo) < len(data):
        echo += channel.recv(65536)
    sender.join()
    transport.packetizer.REKEY_BYTES = 1 << 30
    for _ in range(3):
        transport.global_request("keepalive@openssh.com", wait=True)
    show("exchanges", len(begun) >= 4)
    transport.renegotiate_keys()
    show("echo", echo)
    channel.shutdown_write()
    show("rest", (read(channel.recv), channel.recv_exit_status()))


def compression():
    transport = connect(lambda transport: transport.use_compression())
    show("algorithm", transport.remote_compression)
    text = b"the same again and again\n" * 100_000
    show("text", execute(transport, "cat", text)[0])
    show("noise", execute(transport, "cat", noise(500_000))[0])


def every_cipher():
    """What is preferred by nobody works too."""
    for cipher in ["aes128-ctr", "aes192-ctr", "aes256-ctr"]:
        for mac in ["hmac-sha2-256", "hmac-sha2-512-etm@openssh.com"]:

            def choose(transport):
                options = transport.get_security_options()
                options.ciphers, options.digests = [cipher], [mac]

            transport = connect(choose)
            show("chosen", (transport.remote_cipher, transport.remote_mac))
            show("echo", execute(transport, "cat", noise(100_000))[0])


def many_channels():
    """Fifty sessions at the same time, closed in another order."""
    transport = connect()
    channels = [session(transport) for _ in range(50)]
    for number, channel in enumerate(channels):
        channel.exec_command(f"cat; exit {number}")
    for number, channel in enumerate(channels):
        channel.sendall(b"%d" % number * 1000)
    for channel in reversed(channels):
        channel.shutdown_write()
    for number, channel in enumerate(channels):
        show(str(number), (read(channel.recv), channel.recv_exit_status()))


globals()[CASE]()
os._exit(0)
