#!/bin/sh
# Makes both lock files: exact versions with hashes for every platform and Python from 3.11 on.
# The output names no index, no link and no path, so that it installs from any registry.
#   requirements.lock      everything a developer and CI need
#   requirements-run.lock  what a server image needs (the same versions)
set -eu
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"

compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-build \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
        ${UPGRADE:+--upgrade} "$@"
}

compile pyproject.toml --all-extras --group dev --output-file requirements.lock
compile pyproject.toml --extra push --extra fast --constraints requirements.lock \
    --no-annotate --output-file requirements-run.lock
for lock in requirements.lock requirements-run.lock; do
    if grep -nE '://|^-' "$lock"; then
        echo "lock: $lock names a URL or an option; see above" >&2
        exit 1
    fi
done
echo "lock: $(grep -c '==' requirements.lock) pins, $(grep -c '==' requirements-run.lock) of them for servers"
