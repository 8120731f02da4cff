"""What a user of asyncssh sees: `with_asyncssh.py CASE PORT USER IDENTITY DIRECTORY`."""

import asyncio
import os
import subprocess

import asyncssh
from observing import DEADLINE, Echo, arguments, closed_port, exchange, noise, show

CASE, PORT, USER, IDENTITY, DIRECTORY = arguments()


def connect(**options):
    return asyncssh.connect(
        "127.0.0.1",
        PORT,
        username=USER,
        client_keys=[IDENTITY],
        known_hosts=None,
        config=None,
        agent_path=options.pop("agent_path", None),
        **options,
    )


def outcome(result):
    return result.stdout, result.stderr, result.exit_status, result.exit_signal


async def failure(label, action):
    """Shows the exception that `action` must raise."""
    try:
        result = await action
    except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
        if isinstance(error, OSError):
            show(label, (type(error).__name__, error.errno))
        else:
            show(label, (type(error).__name__, getattr(error, "code", None), str(error)))
    else:
        exit(f"{label} did not fail: {result!r}")


async def commands():
    async with connect() as connection:
        for command in [
            "true",
            "exit 255",
            "no-such-command-anywhere",
            "echo out; echo err >&2; exit 3",
            "printf '\\000\\001\\377'; printf '\\377\\000' >&2",
            "echo \u00e4\u20ac\U0001f600",
            "#" * 100_000,
        ]:
            show(command[:60], outcome(await connection.run(command, encoding=None)))


async def signals():
    """Those a command dies of, and those that are sent to it."""
    async with connect() as connection:
        for name in ["HUP", "INT", "QUIT", "ABRT", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1"]:
            command = f"ulimit -c 0; kill -{name} $$"
            show(f"dies of {name}", outcome(await connection.run(command)))
        # Some are refused, by sshd's own rules, and nothing is to be seen of that.
        for name in ["INT", "TERM", "USR1", "NOSUCH"]:
            process = await connection.create_process(f"trap 'echo got it' {name[:4]}; echo ready; cat; exit 9")
            show(name, await process.stdout.readline())
            process.send_signal(name)
            process.channel.send_break(500)
            process.stdin.write_eof()
            show(f"sent {name}", outcome(await process.wait()))


async def bulk():
    data = noise(4 << 20)
    async with connect() as connection:
        for options in [{}, {"window": 65536, "max_pktsize": 1000 * 7}]:
            result = await connection.run(
                "tee /dev/stderr; exit 5", input=data, encoding=None, **options
            )
            show(str(options), result.exit_status)
            show("stdout", result.stdout)
            show("stderr", result.stderr)


async def redirection():
    """Streams of commands tied to files, and one command's output to another's input."""
    data = noise(1 << 20)
    there = f"{DIRECTORY}redirected"
    with open(there, "wb") as file:
        file.write(data)
    async with connect() as connection:
        result = await connection.run("sha256sum", stdin=there, encoding=None)
        show("from a file", result.stdout)
        await connection.run("tr a b", stdin=there, stdout=f"{there}.out", encoding=None)
        with open(f"{there}.out", "rb") as file:
            show("to a file", file.read())
        first = await connection.create_process(f"cat {there}", encoding=None)
        second = await connection.run("sha256sum; echo err >&2", stdin=first.stdout, stderr=asyncssh.STDOUT, encoding=None)
        show("piped", (second.stdout, second.exit_status))


async def half_close():
    async with connect() as connection:
        process = await connection.create_process("wc -c; echo then; exit 4")
        process.stdin.write("x" * 1234)
        process.stdin.write_eof()
        show("after EOF", outcome(await process.wait()))
        process = await connection.create_process("exec <&-; echo deaf; exec sleep 0.2")
        show("deaf", await process.stdout.readline())
        process.stdin.write("x" * 1000)
        show("ended", outcome(await process.wait()))


async def environment():
    async with connect() as connection:
        result = await connection.run(
            "echo $LC_A; echo $LANG; echo -$REFUSED-", env={"LC_A": "a b=c", "LANG": "xx", "REFUSED": "1"}
        )
        show("variables", result.stdout)


async def terminal():
    async with connect() as connection:
        modes = {asyncssh.PTY_VERASE: 8, asyncssh.PTY_ECHO: 0, asyncssh.PTY_ICRNL: 0, asyncssh.PTY_ISIG: 1}
        process = await connection.create_process(
            "stty -a | grep -oE 'erase = [^;]*|[-]?echo |[-]?icrnl|[-]?isig'; echo $TERM;"
            "stty size; while read line; do echo got $line; stty size; done; exit 6",
            term_type="ansi",
            term_size=(90, 30, 900, 300),
            term_modes=modes,
            stderr=asyncssh.STDOUT,
        )
        show("begins", await process.stdout.readuntil("30 90\r\n"))
        process.change_terminal_size(91, 31)
        process.channel.change_terminal_size(92, 32, 920, 320)
        process.stdin.write("word\n")
        show("answer", await process.stdout.readuntil("\r\n"))
        show("resized", await process.stdout.readuntil("\r\n"))
        process.stdin.write("\x04")
        show("rest", outcome(await process.wait()))


async def sftp_files():
    top = f"{DIRECTORY}asyncssh"
    async with connect() as connection, connection.start_sftp_client() as sftp:
        await sftp.makedirs(f"{top}/a/b")
        await sftp.chdir(top)
        show("where", await sftp.getcwd())
        async with sftp.open("file", "wb") as file:
            await file.write(b"0123456789")
            await file.write(b"xx", 3)
            await file.truncate(8)
            await file.fsync()
        await sftp.chmod("file", 0o604)
        await sftp.utime("file", (1_000_000_000, 1_100_000_000))
        os.symlink("file", f"{top}/link")
        await sftp.link("file", "hard")
        await sftp.posix_rename("hard", "harder")
        show("content", await (await sftp.open("file", "rb")).read())
        attributes = await sftp.stat("harder")
        show("stat", (oct(attributes.permissions), attributes.size, attributes.mtime))
        show("link", (await sftp.readlink("link"), await sftp.realpath("a/../link")))
        statistics = await sftp.statvfs(".")
        show("statvfs", (statistics.bsize > 0, statistics.namemax))
        show("names", sorted(name for name in await sftp.listdir() if name not in (".", "..")))
        show("glob", sorted(await sftp.glob("*r*")))
        show("tests", (await sftp.isdir("a"), await sftp.islink("link"), await sftp.exists("none")))
        await failure("missing", sftp.stat("none"))
        await failure("exists", sftp.mkdir("a"))
        await failure("not empty", sftp.rmdir("a"))
        await failure("no directory", sftp.listdir("file"))
        await failure("rename over", sftp.rename("link", "file"))
        await sftp.rmtree("a")
        await sftp.remove("harder")
        show("left", sorted(name for name in await sftp.listdir() if name not in (".", "..")))


async def sftp_parallel():
    """Many requests under way at once, on two SFTP sessions of one connection."""
    data = noise(5_000_001)
    here = f"{DIRECTORY}here"
    with open(here, "wb") as file:
        file.write(data)

    async def round_trip(connection, number):
        there, back = f"{DIRECTORY}there.{number}", f"{DIRECTORY}back.{number}"
        async with connection.start_sftp_client() as sftp:
            await sftp.put(here, there, block_size=16384, max_requests=100, preserve=True)
            await sftp.get(there, back, block_size=30000, max_requests=60)
        with open(back, "rb") as file:
            return file.read()

    async with connect() as connection:
        for got in await asyncio.gather(*(round_trip(connection, number) for number in range(2))):
            show("got", got)


async def copies():
    """scp by asyncssh's own hand, with times and directories, and its errors."""
    os.makedirs(f"{DIRECTORY}tree/sub")
    for name, size in [("one", 100_000), ("sub/two", 0), ("sub/\u00e4 ", 3)]:
        with open(f"{DIRECTORY}tree/{name}", "wb") as file:
            file.write(noise(size))
    async with connect() as connection:
        await asyncssh.scp(f"{DIRECTORY}tree", (connection, f"{DIRECTORY}copy"), recurse=True, preserve=True)
        await asyncssh.scp((connection, f"{DIRECTORY}copy"), f"{DIRECTORY}again", recurse=True)
        await failure("missing", asyncssh.scp((connection, f"{DIRECTORY}none"), DIRECTORY))
    for root, directories, files in os.walk(f"{DIRECTORY}again"):
        directories.sort()
        for name in sorted(files):
            with open(os.path.join(root, name), "rb") as file:
                show(os.path.join(root, name), file.read())


async def connections():
    """direct-tcpip, used as a stream."""
    data = noise(2 << 20)
    async with connect() as connection:
        reader, writer = await connection.open_connection("localhost", Echo().port, encoding=None)
        writer.write(data)
        writer.write_eof()
        show("echo", await reader.read())
        await failure("refused", connection.open_connection("127.0.0.1", closed_port()))
        await failure("unknown", connection.open_connection("no-such-host.invalid", 80))
        show("still", (await connection.run("echo works")).stdout)


async def unix_connections():
    """direct-streamlocal and streamlocal-forward, used as streams."""
    path, listening = f"{DIRECTORY}echo", f"{DIRECTORY}listening"
    Echo(path)
    async with connect() as connection:
        reader, writer = await connection.open_unix_connection(path, encoding=None)
        writer.write(noise(100_000))
        writer.write_eof()
        show("echo", await reader.read())
        await failure("missing", connection.open_unix_connection(f"{DIRECTORY}none"))

        async def upper(reader, writer):
            writer.write((await reader.read()).upper())
            writer.close()

        server = await connection.start_unix_server(lambda: upper, listening)
        reader, writer = await asyncio.open_unix_connection(listening)
        writer.write(b"words")
        writer.write_eof()
        show("served", await reader.read())
        # asyncssh does not look at the answer; the next request's comes after it.
        server.close()
        await server.wait_closed()
        await connection.run("true")
        await failure("closed", asyncio.open_unix_connection(listening))
        await failure("nowhere", connection.start_unix_server(lambda: upper, f"{DIRECTORY}no/where"))


async def in_thread(function, *args):
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


async def local_forwards():
    data = noise(300_000)
    path = f"{DIRECTORY}forward"
    echo, echo_path = Echo(), f"{DIRECTORY}echo"
    Echo(echo_path)
    async with connect() as connection:
        listener = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", echo.port)
        show("port", await in_thread(exchange, listener.get_port(), data))
        many = [in_thread(exchange, listener.get_port(), noise(5000, seed)) for seed in range(20)]
        for answer in await asyncio.gather(*many):
            show("one of many", answer)
        await connection.forward_local_path(path, echo_path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"through a path")
        writer.write_eof()
        show("path", await reader.read())
        dead = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", closed_port())
        show("to nothing", await in_thread(exchange, dead.get_port(), b""))


async def remote_forwards():
    data = noise(300_000)
    echo, path, echo_path = Echo(), f"{DIRECTORY}forward", f"{DIRECTORY}echo"
    Echo(echo_path)
    async with connect() as connection:
        listener = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", echo.port)
        port = listener.get_port()
        show("port", await in_thread(exchange, port, data))
        many = [in_thread(exchange, port, noise(5000, seed)) for seed in range(20)]
        for answer in await asyncio.gather(*many):
            show("one of many", answer)
        await failure("taken", connection.forward_remote_port("127.0.0.1", port, "127.0.0.1", 1))
        await connection.forward_remote_path(path, echo_path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"through a path")
        writer.write_eof()
        show("path", await reader.read())
        listener.close()
        await listener.wait_closed()
        await connection.run("true")
        await failure("closed", asyncio.open_connection("127.0.0.1", port))

        # A server of ours on their port, which sees where its client comes from.
        async def serve(reader, writer):
            origin = writer.get_extra_info("peername")
            writer.write(repr((origin[0], len(await reader.read()))))
            writer.close()

        server = await connection.start_server(lambda host, port: serve, "localhost", 0)
        show("served", await in_thread(exchange, server.get_port(), data))


async def socks():
    """asyncssh's own SOCKS server: each client a direct-tcpip by name."""
    echo = Echo()
    async with connect() as connection:
        listener = await connection.forward_socks("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
        writer.write(b"\x05\x01\x00")
        show("method", await reader.readexactly(2))
        writer.write(b"\x05\x01\x00\x03\x09localhost" + echo.port.to_bytes(2, "big"))
        show("reply", (await reader.readexactly(10))[:4])
        writer.write(b"hello")
        writer.write_eof()
        show("echo", await reader.read())


async def refusals():
    async with connect() as connection:
        await failure("subsystem", connection.create_process(subsystem="no-such-subsystem"))
        await failure("x11", connection.create_process("true", x11_forwarding=True, x11_display="127.0.0.1:9"))
        show("still", (await connection.run("echo works")).stdout)


async def agent():
    """The client's agent, asked on the far side through a forwarded socket."""
    path = f"{DIRECTORY}agent"
    server = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        async with asyncssh.connect_agent(path) as ours:
            await ours.add_keys([asyncssh.read_private_key(IDENTITY)])
        async with connect(agent_path=path, agent_forwarding=True) as connection:
            for _ in range(3):
                result = await connection.run("ssh-add -l; test -S $SSH_AUTH_SOCK && echo a socket")
                show("keys", ("ED25519" in result.stdout, result.stderr))
                show("socket", "a socket" in result.stdout)
        async with connect() as connection:
            show("not forwarded", outcome(await connection.run("echo -$SSH_AUTH_SOCK-")))
    finally:
        server.kill()
        server.wait()


async def rekey():
    """A key exchange for each 256 KiB while bytes flow both ways, and one for each second."""
    data = noise(4 << 20)
    async with connect(rekey_bytes=1 << 18) as connection:
        results = await asyncio.gather(
            *(connection.run("cat", input=data, encoding=None) for _ in range(2))
        )
        for result in results:
            show("echo", result.exit_status)
            show("bytes", result.stdout)
    async with connect(rekey_seconds=1) as connection:
        show("slow", outcome(await connection.run("for n in 1 2 3; do echo $n; sleep 0.8; done")))


async def every_algorithm():
    """Each that both ends have, in turn; what is seen is the same for all."""
    kinds = {
        "kex_algs": [
            "curve25519-sha256",
            "curve25519-sha256@libssh.org",
            "ecdh-sha2-nistp256",
            "ecdh-sha2-nistp384",
            "ecdh-sha2-nistp521",
        ],
        "encryption_algs": [
            "chacha20-poly1305@openssh.com",
            "aes256-gcm@openssh.com",
            "aes128-gcm@openssh.com",
            "aes256-ctr",
            "aes192-ctr",
            "aes128-ctr",
        ],
        "mac_algs": [
            "hmac-sha2-256-etm@openssh.com",
            "hmac-sha2-512-etm@openssh.com",
            "hmac-sha2-256",
            "hmac-sha2-512",
        ],
        "compression_algs": ["zlib@openssh.com", "none"],
    }
    for kind, names in kinds.items():
        for name in names:
            options = {kind: [name]}
            if kind == "mac_algs":
                options["encryption_algs"] = ["aes128-ctr"]
            async with connect(**options) as connection:
                result = await connection.run("cat", input=noise(50_000), encoding=None)
                show(name, result.stdout)
                for info in ["send_cipher", "recv_mac", "send_compression"]:
                    if kind[:3] in info or kind == "encryption_algs" and "cipher" in info:
                        show(info, connection.get_extra_info(info))


async def keepalives():
    """Sent while the command is quiet: a server that did not answer would be given up."""
    async with connect(keepalive_interval=0.1, keepalive_count_max=3) as connection:
        show("quiet", outcome(await connection.run("sleep 1; echo works")))


async def many_sessions():
    """Forty at once on one connection, their input and output interleaved."""

    async def one(connection, number):
        data = noise(20_000, number)
        result = await connection.run(f"cat; exit {number}", input=data, encoding=None)
        return result.exit_status, result.stdout == data

    async with connect() as connection:
        show("all", await asyncio.gather(*(one(connection, number) for number in range(40))))


async def disconnect():
    """The client says goodbye while a command runs; the command's end is seen through a file."""
    fifo = f"{DIRECTORY}goodbye"
    os.mkfifo(fifo)
    connection = await connect()
    process = await connection.create_process(f"trap 'echo hung up > {fifo}' EXIT; echo ready; cat; cat")
    show("begins", await process.stdout.readline())
    connection.disconnect(asyncssh.DISC_BY_APPLICATION, "goodbye")
    await connection.wait_closed()

    def read():
        with open(fifo) as file:
            return file.read()

    show("the command", await in_thread(read))


async def main():
    await asyncio.wait_for(globals()[CASE](), DEADLINE)


asyncio.run(main())
os._exit(0)
