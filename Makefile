# Everything runs in .venv, which is made anew when the dependencies change. Another Python: make PYTHON=python3.12 install
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: install demo test check ui bench
install: $(INSTALLED)
demo: $(INSTALLED) ; $(BIN)/python -m mist_dagster.demo
test: check ; $(BIN)/pytest -m "not slow" --cov --cov-report=term --cov-report=xml
check: $(INSTALLED) ; $(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports
ui: $(INSTALLED) ; $(BIN)/mist_ui
bench: $(INSTALLED) ; $(BIN)/python bench/stages.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
