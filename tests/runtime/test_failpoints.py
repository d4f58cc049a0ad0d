"""Failpoints act where and when they are told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chatmesh.runtime import failpoints
from chatmesh.runtime.failpoints import FailpointError


async def test_unset_ones_do_nothing() -> None:
    await failpoints.hit("anything")


async def test_error_at_the_third_passage() -> None:
    failpoints.arm("a.b:error@3; c:pause=0")
    try:
        await failpoints.hit("a.b")
        await failpoints.hit("c")
        await failpoints.hit("a.b")
        with pytest.raises(FailpointError, match=r"a\.b"):
            await failpoints.hit("a.b")
        await failpoints.hit("a.b")
    finally:
        failpoints.arm("")


@pytest.mark.parametrize("bad", ["x", "x:", ":kill", "x:fly", "x:pause=long", "x:kill@n"])
def test_bad_ones_are_told(bad: str) -> None:
    with pytest.raises(ValueError, match="CHATMESH_FAILPOINTS"):
        failpoints.parse(bad)


@pytest.mark.parametrize("module", ["chat_svc", "sync_svc"])
def test_a_server_tells_a_bad_one_with_its_settings(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={failpoints.VARIABLE: "foo"}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "CHATMESH_FAILPOINTS: 'foo'" in done.stderr
    assert "CHATMESH_MESH_LISTEN" in done.stderr, "all that is wrong, in one list"
    assert "Traceback" not in done.stderr


def test_kill_kills() -> None:
    code = (
        "import asyncio\nfrom chatmesh.runtime import failpoints\n"
        "asyncio.run(failpoints.hit('x'))\nprint('alive', flush=True)\n"
        "asyncio.run(failpoints.hit('x'))\nprint('never')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={failpoints.VARIABLE: "x:kill@2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-9, "alive\n")
