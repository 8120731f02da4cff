"""A connection that outlives its upstream: `with_asyncssh.py PORT USER IDENTITY DIRECTORY`."""

import asyncio
import os
import sys

import asyncssh

PORT, USER, IDENTITY, DIRECTORY = int(sys.argv[1]), *sys.argv[2:5]
DEADLINE = 60


async def lose():
    """Has the upstream lost."""
    path = os.path.join(DIRECTORY, "lose")
    open(path, "w").close()
    while os.path.exists(path):
        await asyncio.sleep(0.01)


async def echo(reader, writer):
    writer.write(await reader.read(100))
    writer.close()


async def echoes(port):
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        answer = await reader.read(100)
        writer.close()
        return answer == b"hello"
    except OSError:
        return False


async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    near = server.sockets[0].getsockname()[1]
    options = dict(username=USER, client_keys=[IDENTITY], known_hosts=None, config=None, agent_path=None)
    options.update(keepalive_interval=1, keepalive_count_max=10)
    async with asyncssh.connect("127.0.0.1", PORT, **options) as connection:
        remote = await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", near)
        local = await connection.forward_local_port("127.0.0.1", 0, "127.0.0.1", near)
        for _ in range(2):
            assert await echoes(remote.get_port()) and await echoes(local.get_port())
            process = await connection.create_process("echo out; exec cat")
            assert await process.stdout.readline() == "out\n"
            await lose()
            result = await process.wait()
            assert result.stderr.startswith("ssmshim: the "), result.stderr
            signal = result.exit_signal
            assert signal[0] == "HUP" and signal[2].startswith("the "), signal
            result = await connection.run("cat; exit 5", input="in")
            assert (result.stdout, result.exit_status) == ("in", 5), result
            while not await echoes(remote.get_port()):
                await asyncio.sleep(0.05)
        remote.close()
        await remote.wait_closed()


asyncio.run(asyncio.wait_for(main(), DEADLINE))
