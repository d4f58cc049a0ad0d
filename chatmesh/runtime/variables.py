"""Names in the environment that nobody reads: a typing error, or something of somebody else.

Role: `strangers()` finds variables with our prefix that are none of the known names.
Rules: a name close to a known one is taken for a typing error, since a setting that is silently not
in force may be the one that keeps a deployment safe. Variables that Kubernetes makes for each
Service of a namespace carry our prefix, too, and are none of ours.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "CHATMESH_"
FILE_SUFFIX: Final = "_FILE"
CLOSE: Final = 0.8
"""Share of letters in common (difflib's ratio) from which a name counts as misspelt: one or two
letters wrong in a name of ten."""

_OF_KUBERNETES: Final = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?$"
)


@dataclass(frozen=True, slots=True)
class Stranger:
    """A variable that nothing reads."""

    name: str
    meant: str | None
    """The known name that it resembles."""

    def __str__(self) -> str:
        if self.meant is None:
            return f"{self.name}: no setting has this name, it has no effect"
        return f"{self.name}: no setting has this name; did you mean {self.meant}?"


def strangers(environ: Mapping[str, str], known: Iterable[str]) -> list[Stranger]:
    """Variables of the environment with our prefix that are not among the known names.

    `known` are whole names (CHATMESH_LOG_LEVEL); each also stands for its …_FILE. In order of name.
    """
    names = {name for name in environ if name.startswith(PREFIX)}
    if not names:
        return []
    plain = set(known)
    names -= plain | {name + FILE_SUFFIX for name in plain}
    found = []
    for name in sorted(names):
        if _OF_KUBERNETES.search(name):
            continue
        suffix = FILE_SUFFIX if name.endswith(FILE_SUFFIX) else ""
        bare = name.removeprefix(PREFIX).removesuffix(suffix)
        short = [one.removeprefix(PREFIX) for one in sorted(plain)]
        close = difflib.get_close_matches(bare, short, n=1, cutoff=CLOSE)
        found.append(Stranger(name, f"{PREFIX}{close[0]}{suffix}" if close else None))
    return found
