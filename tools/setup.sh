#!/bin/sh
# Makes .venv from requirements.lock, every download checked against its hash, and installs chatmesh
# editable. Does nothing when .venv already holds this lock, this pyproject.toml and this Python.
#
# Needs Python 3.11 or newer only; PYTHON=... chooses the one to make .venv with. Uses uv when it is on PATH (quicker),
# else pip.
set -eu
cd "$(dirname "$0")/.."
venv=.venv

say() { printf 'setup: %s\n' "$*" >&2; }

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null 2>&1 && is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    say "needs Python 3.11 or newer; none is on PATH (set PYTHON=/path/to/python3)"
    exit 1
}

# What the stamp holds: the inputs of the installation. The place is part of it, since an editable
# install and a venv's scripts hold absolute paths.
digest() {
    "$1" - <<'PY'
import hashlib, os, platform, sys
h = hashlib.sha256(f"1 {os.getcwd()} {platform.machine()} {sys.version_info[:2]}".encode())
for name in ("requirements.lock", "pyproject.toml", "tools/setup.sh"):
    with open(name, "rb") as f:
        h.update(f.read())
print(h.hexdigest())
PY
}

if [ -x $venv/bin/python ] && is_new_enough $venv/bin/python; then
    python=$venv/bin/python
else
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    if ! "$python" -m venv --clear $venv; then
        say "'$python -m venv' failed; on Debian and Ubuntu install python3-venv"
        exit 1
    fi
    python=$venv/bin/python
fi

want=$(digest $python)
if [ "$(cat $venv/chatmesh.stamp 2>/dev/null)" = "$want" ]; then
    exit 0
fi
rm -f $venv/chatmesh.stamp

log=$venv/setup.log
total=$(grep -c '==' requirements.lock)

# Runs an installer with its talk kept in the log, and tells how far it is every few seconds.
quietly() {
    "$@" >>$log 2>&1 &
    installer=$!
    ticks=0
    while kill -0 $installer 2>/dev/null; do
        sleep 0.2
        ticks=$((ticks + 1))
        if [ $((ticks % 25)) -eq 0 ]; then
            if grep -q '^Installing collected' $log; then
                doing="unpacking"
            else
                doing="$(grep -c '^ *Collecting' $log) downloaded"
            fi
            say "$doing, $((ticks / 5)) s"
        fi
    done
    if ! wait $installer; then
        tail -n 30 $log >&2
        say "failed: $*"
        exit 1
    fi
}

: >$log
say "installing $total packages (the first time takes a minute or two)"
# hatchling comes from the lock, so that nothing unchecked is fetched to build with
if command -v uv >/dev/null 2>&1; then
    quietly uv pip install --python $python --require-hashes -r requirements.lock
    quietly uv pip install --python $python --no-deps --no-build-isolation --editable .
else
    pip="$python -m pip --disable-pip-version-check --no-input"
    quietly $pip install --require-hashes -r requirements.lock
    quietly $pip install --no-deps --no-build-isolation --editable .
fi
printf '%s\n' "$want" >$venv/chatmesh.stamp
say "ready: $venv/bin/chatmesh"
