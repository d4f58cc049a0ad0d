"""The life of a process: exit codes, the order of a stop, signals, the parent's end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from chatmesh.runtime.lifecycle import PARENT_FD_VARIABLE
from tests.runtime.echo import EchoStub, Message


class App:
    """The process under test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.public = self.mesh = ""

    async def line(self) -> str:
        assert self.process.stdout is not None
        text = (await self.process.stdout.readline()).decode().rstrip("\n")
        self.lines.append(text)
        return text

    async def ready(self) -> None:
        while not (text := await self.line()).startswith("ready"):
            assert text or not self.process.stdout.at_eof()  # type: ignore[union-attr]
        _, self.public, self.mesh = text.split()

    async def end(self) -> tuple[int, str]:
        """Exit code and stderr, after reading all lines."""
        out, error = await self.process.communicate()
        self.lines += out.decode().splitlines()
        assert self.process.returncode is not None
        return self.process.returncode, error.decode()


@asynccontextmanager
async def started(
    mode: str = "", descriptor: int | None = None, /, **env: str
) -> AsyncIterator[App]:
    variables = {"CHATMESH_MESH_LISTEN": "127.0.0.1:0", "MODE": mode, **env}
    if descriptor is not None:
        variables[PARENT_FD_VARIABLE] = str(descriptor)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.sample_app",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
        pass_fds=() if descriptor is None else (descriptor,),
    )
    try:
        async with asyncio.timeout(60):
            yield App(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_in_the_written_order(number: signal.Signals) -> None:
    async with started() as app:
        await app.ready()
        async with (
            grpc.aio.insecure_channel(app.public) as channel,
            grpc.aio.insecure_channel(app.mesh) as mesh_channel,
        ):
            call = EchoStub(channel).StreamStream()
            await call.write(Message(text="polite"))
            assert (await call.read()).text == "polite"
            watch = health_pb2_grpc.HealthStub(mesh_channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            app.process.send_signal(number)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await call.read()).text == "going away"
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
        code, _ = await app.end()
        assert code == 0
        assert app.lines == [
            "store opened",
            app.lines[1],
            "session polite",
            "drain",
            "loop ended",
            "run returned",
            "store closed",
        ]


async def test_a_session_that_stays_is_cancelled_after_the_grace() -> None:
    async with started(CHATMESH_SHUTDOWN_GRACE_SECONDS="0.3") as app:
        await app.ready()
        async with grpc.aio.insecure_channel(app.public) as channel:
            call = EchoStub(channel).StreamStream()
            await call.write(Message(text="rude"))
            await call.read()
            app.process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        code, _ = await app.end()
        assert code == 0
        assert app.lines.index("session cancelled") < app.lines.index("store closed")


async def test_new_calls_while_stopping_are_refused() -> None:
    async with started() as app:
        await app.ready()
        async with grpc.aio.insecure_channel(app.public) as channel:
            stub = EchoStub(channel)
            call = stub.StreamStream()
            await call.write(Message(text="rude"))
            await call.read()
            app.process.send_signal(signal.SIGTERM)
            while await app.line() != "drain":
                pass
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.UnaryUnary(Message(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            call.cancel()
        assert (await app.end())[0] == 0


async def test_a_second_signal_leaves_at_once() -> None:
    async with started() as app:
        await app.ready()
        async with grpc.aio.insecure_channel(app.public) as channel:
            call = EchoStub(channel).StreamStream()
            await call.write(Message(text="rude"))
            await call.read()
            app.process.send_signal(signal.SIGTERM)
            while await app.line() != "drain":
                pass
            app.process.send_signal(signal.SIGTERM)
            code, error = await app.end()
        assert code == 128 + signal.SIGTERM
        assert "second signal" in error
        assert "store closed" not in app.lines


async def test_a_blocked_loop_cannot_keep_the_process_alive() -> None:
    async with started("blocked", CHATMESH_SHUTDOWN_GRACE_SECONDS="0") as app:
        await app.ready()
        app.process.send_signal(signal.SIGTERM)
        code, error = await app.end()
    assert code == 1
    assert "not stopped within" in error


@pytest.mark.parametrize(
    ("mode", "said"),
    [("dying loop", "the loop's own words"), ("returning loop", "background loop died")],
)
async def test_a_loop_that_dies_ends_the_process(mode: str, said: str) -> None:
    async with started(mode) as app:
        code, error = await app.end()
    assert code == 1
    assert said in error
    assert app.lines[-1] == "store closed", "the rest still stops in order"


@pytest.mark.parametrize(
    ("mode", "said", "traceback"),
    [
        ("cannot start", "the reason why not", False),
        ("crash", "the app's own words", True),
        ("return", "ended without being told", False),
    ],
)
async def test_failed_starts(mode: str, said: str, traceback: bool) -> None:
    async with started(mode) as app:
        code, error = await app.end()
    assert code == 1
    assert said in error
    assert ("ValueError" in error) is traceback
    assert "canary" not in error, "what a ValueError quotes may be a user's"


async def test_the_pure_python_parser_is_refused() -> None:
    async with started("", PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python") as app:
        code, error = await app.end()
    assert code == 1
    assert "install a wheel with upb" in error


async def test_wrong_settings() -> None:
    async with started(CHATMESH_LOG_LEVEL="loud", CHATMESH_MESH_LISTEN="x") as app:
        code, error = await app.end()
    assert code == 2
    assert error.startswith("2 settings are wrong:\n  CHATMESH_")
    assert "Traceback" not in error


async def test_a_taken_port_is_told_without_a_traceback() -> None:
    async with started() as first:
        await first.ready()
        async with started("mesh last", CHATMESH_MESH_LISTEN=first.mesh) as second:
            code, error = await second.end()
    assert code == 1
    assert "in use by another process" in error
    assert "Traceback" not in error
    assert "store closed" in second.lines


async def test_the_parents_end_is_a_stop() -> None:
    reading, writing = os.pipe()
    try:
        async with started("", reading) as app:
            await app.ready()
            os.close(writing)
            code, error = await app.end()
    finally:
        os.close(reading)
    assert code == 0
    assert "the parent process is gone" in error


async def test_a_parent_descriptor_that_is_none_is_told() -> None:
    async with started("", **{PARENT_FD_VARIABLE: "77"}) as app:
        code, error = await app.end()
    assert code == 1
    assert PARENT_FD_VARIABLE in error


async def test_logs_are_json_with_the_service() -> None:
    async with started() as app:
        await app.ready()
        app.process.send_signal(signal.SIGTERM)
        _, error = await app.end()
    lines = [json.loads(line) for line in error.splitlines()]
    assert {"listening", "stopping"} <= {line["event"] for line in lines}
    assert {line["service"] for line in lines} == {"runtime"}
    assert all({"timestamp", "level", "logger"} <= line.keys() for line in lines)
