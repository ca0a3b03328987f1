# The commands of this project: see `make help`. Each makes or repairs its own .venv first, so each works on a
# fresh clone.
VENV ?= .venv
PYTHON ?=
PARITY ?=
ARGS ?=

# A PYTHONPATH from elsewhere (ROS sets one) would bring other versions of the same libraries.
unexport PYTHONPATH PYTHONHOME

# Memory in pages of 2 MiB, where nothing else is set: on CPUs steps of small models get up to 1.4 x as fast
# (docs/benchmarks.md).
GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
export GLIBC_TUNABLES

python := "$(VENV)/bin/python"
needs := requirements.txt
parity := requirements-parity.txt requirements-parity-no-deps.txt
needs_dev := $(needs) requirements-dev.txt $(if $(filter-out 0 no,$(PARITY)),$(parity))
environment = @python=$$(launch/find_python.sh $(if $(PYTHON),"$(PYTHON)")) && \
	"$$python" launch/environment.py --venv="$(VENV)" $(if $(PYTHON),--exactly)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart test prove format environment clean

help:
	@echo "make quickstart     set up, train on the built-in sounds, evaluate, tag one file"
	@echo "make test           set up, then every check: format, lint, types, tests (ARGS=... goes to pytest)"
	@echo "make test PARITY=1  the same, with the tests that compare with PyTorch (about 1 GB more)"
	@echo "make prove          the longer proofs; each writes its figures to docs/*.json"
	@echo "make format         put the source into the house style"
	@echo "make environment    set up only: .venv with requirements.txt"
	@echo "make clean          delete the environments and caches; never runs/ or data/"
	@echo
	@echo "PYTHON=/path/to/python3.12 chooses the interpreter (else the newest of 3.11 to 3.14),"
	@echo "VENV=dir the environment."

quickstart: environment
	@$(python) -m ast_jax quickstart $(ARGS)

environment:
	$(environment) $(needs)

test:
	$(environment) $(needs_dev)
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy
	$(python) -m pytest -rs -n 2 --dist=loadfile --durations=30 $(ARGS)

prove:
	$(environment) $(needs_dev)
	$(python) -m benchmarks.prove $(ARGS)
	$(python) -m benchmarks.prove_properties

format:
	$(environment) $(needs_dev)
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

clean:
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find ast_jax benchmarks configs launch tests -name __pycache__ -prune -exec rm -rf {} +
