# Every target makes its own .venv first; a second run finds it in place and starts at once.
# ARGS is handed on: make test ARGS='-k ring -x', make run ARGS='--config gateway.yaml'.

VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.gateway-installed
VERSIONS := 3.13 3.12 3.11 3.14
ARGS    ?=
COMPILE := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command 'make lock'

# Every start would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run demo bench quick test torture check format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

run: $(STAMP) ## a gateway over simulated accounts; needs no file and no key
	$(BIN)/gateway serve --demo $(ARGS)

demo: $(STAMP) ## 200 conversations kept on their accounts, and scattered, side by side
	$(BIN)/gateway demo $(ARGS)

bench: $(STAMP) ## cost per request and per event, side by side with nginx
	$(BIN)/gateway bench $(ARGS)

quick: $(STAMP) ## a minute: the rules, the configuration, and whole journeys of requests without a socket
	$(BIN)/python -m pytest -q -rs -n 2 --dist worksteal -p no:schemathesis --wire tests/core tests/config tests/journeys $(ARGS)

test: $(STAMP) ## all tests; whatever had to be skipped is listed with its reason
	$(BIN)/python -m pytest -rs $(ARGS)

torture: $(STAMP) ## minutes of random faults against real processes, and whole products of parameters
	$(BIN)/python -m pytest -rs -m "torture or pairwise" --whole $(ARGS)

check: $(STAMP) ## lint, format, types, layers, dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: | $(BIN)/python ## rewrite the lock files from pyproject.toml (ARGS=--upgrade for newer versions)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml --all-extras --output-file requirements.lock $(ARGS)
	$(COMPILE) pyproject.toml --extra aws --extra google --extra otel --constraint requirements.lock --output-file deploy/requirements.lock
	printf 'hatchling\nuv\n' | $(COMPILE) - --constraint requirements.lock --output-file deploy/build.lock

clean: ## remove the virtual environment, caches and build output; never ./data
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find gateway tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Dependencies come from the lock file, hash by hash; the package itself is the checkout. uv takes seconds where pip takes
# a minute; pip does it where it is told of an index that uv would not know, or where uv fails.
HASHED := install --quiet --require-hashes -r
$(STAMP): pyproject.toml requirements.lock | $(BIN)/python
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(BIN)/python -m ensurepip
	@awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock >$(VENV)/uv.lock
	@echo "installing what requirements.lock lists"; export PIP_DISABLE_PIP_VERSION_CHECK=1; \
	{ ! $(BIN)/python -m pip config list | grep -q index-url && $(BIN)/python -m pip $(HASHED) $(VENV)/uv.lock && \
		$(BIN)/uv pip $(HASHED) requirements.lock --python $(BIN)/python --no-config --system-certs; } || \
		$(BIN)/python -m pip $(HASHED) requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'import gateway.cli, gateway.asgi, gateway.supervisor.run, gateway.worker.process' # compiled once
	@touch $@

# The newest tested Python that can make a virtual environment; a shim on PATH may name a version that is not there.
$(BIN)/python:
	@found=; old=; for py in $(VERSIONS:%=python%) python3; do \
		"$$py" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		old=$$py; \
		"$$py" -c 'import ensurepip, venv' 2>/dev/null && { found=$$py; break; }; \
	done; \
	if [ -z "$$old" ]; then echo "make: no Python 3.11 or newer on PATH: please install one" >&2; exit 1; fi; \
	if [ -z "$$found" ]; then echo "make: $$old has no ensurepip: please install its venv package (Debian: apt install python3-venv)" >&2; exit 1; fi; \
	echo "$$found -m venv $(VENV)"; "$$found" -m venv --clear $(VENV)
