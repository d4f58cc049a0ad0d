"""When the contract's breaking check only tells, and when it fails."""

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTO = """\
syntax = "proto3";
package chatmesh.v1;
// A message.
message Entry {
  // Its place.
  int64 timeline_seq = 1;
  // Its text.
  string text = 2;
}
"""
BROKEN = PROTO.replace("  // Its text.\n  string text = 2;\n", "")


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "check_breaking", ROOT / "tools/check_breaking.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.fixture
def commit(tmp_path: Path) -> Callable[[str], None]:
    """Writes the contract and commits it in a repository of its own."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    proto = tmp_path / "protos/chatmesh/v1/entry.proto"
    proto.parent.mkdir(parents=True)
    (tmp_path / "protos/buf.yaml").write_text((ROOT / "protos/buf.yaml").read_text())
    git("init", "--initial-branch=main")

    def write(content: str) -> None:
        proto.write_text(content)
        git("add", ".")
        git("commit", "--message", "contract")

    return write


def test_before_the_first_release_it_only_tells(
    check: ModuleType, commit: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    commit(PROTO)
    assert check.main() == 0
    commit(BROKEN)
    assert check.main() == 0
    assert "text" in capsys.readouterr().out


def release(folder: Path) -> None:
    buf = Path(importlib.util.find_spec("pytest").origin or "").parents[4] / "bin/buf"  # type: ignore[union-attr]
    subprocess.run(
        [buf, "build", "protos", "--as-file-descriptor-set", "--output", "protos/released.binpb"],
        cwd=folder,
        check=True,
    )


def test_after_it_a_break_fails_and_an_addition_does_not(
    check: ModuleType, commit: Callable[[str], None], tmp_path: Path
) -> None:
    commit(PROTO)
    release(tmp_path)
    commit(PROTO.replace("text = 2;\n", "text = 2;\n  // New.\n  string subject = 3;\n"))
    assert check.main() == 0
    commit(BROKEN)
    assert check.main() == 1


def test_a_release_without_its_image_is_told(
    check: ModuleType,
    commit: Callable[[str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commit(PROTO)
    subprocess.run(["git", "tag", "v0.1.0"], cwd=tmp_path, check=True)
    assert check.main() == 1
    assert "make release-image" in capsys.readouterr().out
