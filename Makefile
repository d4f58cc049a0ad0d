# Everything starts here: a fresh clone needs Python 3.11+ and make, nothing else.
#   make demo     the whole mesh, real parts, every step shown
#   make test     all tests
#   make check    format, lint, types, import contracts, protos, spelling, dependencies

VENV := .venv
PY := $(VENV)/bin/python
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
FAULTS := tests/faults tests/chat_node/test_mesh_faults.py tests/e2e/test_conversation.py \
	tests/sync/test_drills.py
FAULTS_SEEDS ?= $(shell seq -s, 1 60)

.PHONY: help setup demo faults faults-long backlog test check fix gen bench peers lock release-image

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup:  ## make .venv from the lock (hashes checked) and install chatmesh editable
	@sh tools/setup.sh

demo: setup  ## start the mesh and walk through login, message, push and catch-up
	@$(VENV)/bin/chatmesh demo

test: setup  ## all tests; PYTEST_ARGS="-k up -x" chooses
	@$(PY) -m pytest $(PYTEST_ARGS)

faults: setup  ## what may break, broken: the short, seeded runs that are part of `make test`
	@$(PY) -m pytest -s $(FAULTS) $(PYTEST_ARGS)

faults-long: setup  ## an hour of random runs (FAULTS_SEEDS=1,2,…); what fails is cut down and shown
	@CHATMESH_FAULTS_SEEDS=$(FAULTS_SEEDS) CHATMESH_FAULTS_STEPS=1000 CHATMESH_FAULTS_SHRINK=1 \
		CHATMESH_FAULTS_ROUNDS=10000 CHATMESH_DRILL_SECONDS=30 \
		$(PY) -m pytest -s --timeout 3600 $(FAULTS) tests/chat_store/test_races.py $(PYTEST_ARGS)

backlog: setup  ## 100,000 hints while sync_svc is down, then drained: rate, order, memory as JSON
	@$(VENV)/bin/chatmesh bench sync --backlog 100000 --json

bench: setup  ## load from separate client processes on an embedded mesh
	@$(VENV)/bin/chatmesh bench messages

peers: setup  ## ours beside ejabberd with a PostgreSQL archive (Debian's package), by the same load
	@$(PY) -m benchmarks.peers

check: setup  ## everything that needs no running server
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh tools/check.sh

fix: setup  ## what can be repaired by itself: format, sorted imports, simple lint
	@$(VENV)/bin/ruff check --fix --quiet . || true
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/buf format --write protos

gen: setup  ## stubs from protos/ into chatmesh/v1 and chatmesh/mesh/v1
	@$(PY) tools/gen_stubs.py
	@$(PY) tools/error_table.py
	@$(PY) tools/variable_names.py
	@$(PY) tools/reference_pages.py

lock: setup  ## pins with hashes from pyproject.toml; UPGRADE=1 takes newer versions
	@sh tools/lock.sh

release-image: setup  ## the contract's image that later changes must not break
	@$(VENV)/bin/buf build protos --as-file-descriptor-set --output protos/released.binpb
