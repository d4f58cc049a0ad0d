"""Prints, of a lock on stdin, the pins of the named packages and of what they need.

The image's build stage installs the build backend alone, by the pins and hashes that all use.
Knows nothing but the requirements format; who needs whom is read from the lock's `# via` comments.
"""

import re
import sys


def main() -> int:
    """Pins of the arguments' closure; 1 when one is not in the lock."""
    entries: dict[str, str] = {}
    needed_by: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", sys.stdin.read()):
        match = re.match(r"([a-z0-9._-]+)(?:\[[^]]*\])?==", entry)
        if match is None:
            continue
        entries[match[1]] = entry.rstrip()
        comments = " ".join(re.findall(r"#(.*)", entry)).replace("via", " ")
        needed_by[match[1]] = set(comments.split())
    wanted = set(sys.argv[1:])
    if wanted - entries.keys():
        sys.stderr.write(f"not in the lock: {', '.join(sorted(wanted - entries.keys()))}\n")
        return 1
    while more := {name for name, users in needed_by.items() if users & wanted} - wanted:
        wanted |= more
    sys.stdout.write("\n".join(entries[name] for name in sorted(wanted)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
