PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Tests are many small models at once: a thread each, not a thread pool each.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: demo test lint soak quickstart clean

demo: .venv/installed  ## search the embedded models, a few minutes on two cores
	$(BIN)/vlmmerge search experiment=quickstart output=runs/quickstart resume=true
	@echo "open runs/quickstart/report.html; load runs/quickstart/model with transformers"

test: lint  ## the whole test suite
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist loadfile --junitxml=build/tests.xml
	$(BIN)/python tools/check_skips.py build/tests.xml tests/allowed_skips.txt

lint: .venv/developing  ## ruff, ruff format, mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: .venv/developing  ## what takes longer: every model type, real sizes, three seeds, twenty kills
	$(BIN)/python tools/check_types.py --output docs/models.md
	for what in inspect scoring metrics; do \
		$(BIN)/python tools/bench_$$what.py > docs/bench_$$what.json || exit 1; done
	$(BIN)/python tools/compare_metrics.py --output docs/compare_metrics.md
	$(BIN)/python tools/check_quickstart.py --output docs/quickstart_check.md
	$(BIN)/python tools/check_kills.py --output docs/kills.md

quickstart: .venv/making  ## fetch the artwork, train the embedded models again
	$(BIN)/python tools/make_quickstart.py --output data/quickstart --cache build/artwork

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	@touch $@

.venv/developing: .venv/installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

.venv/making: .venv/installed
	$(INSTALL) --editable '.[quickstart]'
	@touch $@

clean:
	rm -rf .venv build dist
