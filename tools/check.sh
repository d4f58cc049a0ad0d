#!/bin/sh
# Runs every check, also after one failed, and says at the end which failed. Called by `make check`,
# which puts .venv/bin on PATH.
set -u
cd "$(dirname "$0")/.."
failed=""

check() {
    name=$1
    shift
    printf '== %s\n' "$name"
    if ! "$@"; then
        failed="$failed $name"
    fi
}

check lint ruff check --quiet .
check format ruff format --check .
check types mypy
check imports lint-imports --no-logo
check buf-lint buf lint protos
check breaking python tools/check_breaking.py
check stubs python tools/gen_stubs.py --check
check error-table python tools/error_table.py --check
check variables python tools/variable_names.py --check
check reference-pages python tools/reference_pages.py --check
check spelling codespell
check dependencies deptry .
# every overlay rendered, against schemas, policies, the settings of the code and the contract
check kubernetes python -m pytest -q -p no:cacheprovider -m "not mesh" tests/k8s --deselect tests/k8s/test_image.py

if [ -n "$failed" ]; then
    printf 'check: failed:%s\n' "$failed"
    exit 1
fi
echo "check: all good"
