# One command before every commit: make check. PYTHON chooses the environment.
PYTHON ?= python

.PHONY: check format lint types test fix fuzz

check: format lint types test

format:
	$(PYTHON) -m ruff format --check .

lint:
	$(PYTHON) -m ruff check .

# mypy follows the file tree, so it is shown the tree that is installed: kernels/ inside gpucodec/.
types:
	@rm -rf build/types && mkdir -p build/types/gpucodec
	@ln -s $(CURDIR)/gpucodec/* build/types/gpucodec/
	@ln -s $(CURDIR)/kernels build/types/gpucodec/kernels
	cd build/types && $(PYTHON) -m mypy --config-file $(CURDIR)/pyproject.toml -p gpucodec

test:
	$(PYTHON) -m pytest -n auto

fix:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(PYTHON) docs/make_reference.py

# Ten minutes for each target, with atheris and clang; docs/testing.md says more.
fuzz:
	$(PYTHON) tests/fuzz/campaign.py
