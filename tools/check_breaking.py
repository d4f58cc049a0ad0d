"""Tells whether protos/ breaks clients of the last release.

protos/released.binpb is the image of the contract as last released (`make release-image` writes it,
right before the tag). Once it exists, or a tag v* does, a breaking change fails the check. Before
the first release there are no clients to break: the differences to the contract's previous commit
are only reported.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUF = Path(sys.executable).parent / "buf"
IMAGE = "protos/released.binpb"


def git(*arguments: str) -> str:
    """The output of a git command, empty where there is no git or no repository (an sdist)."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def breaking(against: str) -> tuple[int, str]:
    """Runs `buf breaking` of the working tree against an image or a commit."""
    done = subprocess.run(
        [BUF, "breaking", "protos", "--against", against],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def main() -> int:
    """Exit code 1 when a released contract would break."""
    if (ROOT / IMAGE).exists():
        status, report = breaking(IMAGE)
        print(report or "breaking: nothing, against the last release")
        return 1 if status else 0
    if tags := git("tag", "--list", "v*"):
        print(
            f"breaking: released as {tags.split()[-1]}, but {IMAGE} is missing: "
            "check that tag out, run `make release-image`, commit the file"
        )
        return 1
    changed = git("rev-list", "-1", "HEAD", "--", "protos/chatmesh")
    before = git("rev-parse", "--verify", "--quiet", f"{changed}^") if changed else ""
    if not before or not git("ls-tree", before, "protos/chatmesh"):
        print("breaking: no earlier contract to compare with")
        return 0
    _, report = breaking(f".git#ref={before},subdir=protos")
    print("breaking: no release yet, so this is only told:" if report else "breaking: nothing")
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
