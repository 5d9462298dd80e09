# Everything runs in .venv, which is rebuilt when the dependencies change. For another Python: make PYTHON=python3.12 install
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/installed
AUDIT := .venv-audit/installed

FUZZ_SECONDS ?= 60

.PHONY: install demo test retest coverage check ui bench fuzz sbom audit
install: $(INSTALLED)
demo: $(INSTALLED) ; $(BIN)/python -m mist_dagster.demo
test: check ; $(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile --max-worker-restart 1
coverage: $(INSTALLED) ; $(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile --cov --cov-report=term --cov-report=xml
retest: $(INSTALLED) ; $(BIN)/pytest -m "not slow" --last-failed --last-failed-no-failures none
check: $(INSTALLED) ; $(BIN)/codespell && $(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports
ui: $(INSTALLED) ; $(BIN)/mist_ui
bench: $(INSTALLED) ; $(BIN)/python bench/stages.py

# Fuzz the NIfTI reader for FUZZ_SECONDS, then run the property tests with more examples. Failures are kept in .fuzz and .hypothesis.
fuzz: $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	mkdir -p .fuzz
	$(BIN)/python tests/fuzz/nifti.py .fuzz/nifti -artifact_prefix=.fuzz/ -max_total_time=$(FUZZ_SECONDS) \
		-max_len=4096 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512
	$(BIN)/pytest -m hypothesis --hypothesis-profile=fuzz tests/test_untrusted.py tests/test_study.py tests/imaging

# Bill of materials (CycloneDX) and audit of the installed packages, with tools from a separate environment.
sbom: $(INSTALLED) $(AUDIT)
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom.json $(BIN)/python
audit: $(INSTALLED) $(AUDIT) ; $(BIN)/python .ci/audit.py

$(AUDIT):
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet 'cyclonedx-bom>=7,<8' 'pip-audit>=2.10,<3'
	touch $@
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
