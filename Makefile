# Everything runs in .venv, which is rebuilt when the dependencies change. For another Python: make PYTHON=python3.12 install.
# TORCH=cpu installs PyTorch without CUDA; TORCH=cuda, the default, the build on PyPI.
PYTHON ?= python3.11
TORCH ?= cuda
INDEX_cpu := --extra-index-url https://download.pytorch.org/whl/cpu
INDEX_cuda :=
$(if $(filter cpu cuda,$(TORCH)),,$(error TORCH=$(TORCH): expected cpu or cuda))
BIN := .venv/bin
INSTALLED := .venv/installed
AUDIT := .venv-audit/installed

FUZZ_SECONDS ?= 60

# Without bytecode, each of the many interpreters that tests start compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

# Tests of what depends on the processor and on the versions of the packages that compute.
NUMERIC := $(addprefix tests/,models losses metrics augmentation inference imaging ensembling postprocessing \
	training/test_step.py training/test_loop.py test_devices.py test_optimizers.py)
OTHER_PYTHONS ?= python3.12 python3.13

.PHONY: install demo test test-all test-cluster test-portable retest coverage check ui bench screenshots vendor docs fuzz sbom audit release
install: $(INSTALLED)
demo: $(INSTALLED) ; $(BIN)/python -m mist_dagster.demo
test: check ; $(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile --max-worker-restart 1
test-all: check ; $(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 1
test-cluster: $(INSTALLED) ; $(BIN)/pytest -m cluster -rs --numprocesses 3
coverage: $(INSTALLED) ; $(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile --cov --cov-report=term --cov-report=xml
retest: $(INSTALLED) ; $(BIN)/pytest -m "not slow" --last-failed --last-failed-no-failures none
check: $(INSTALLED) ; $(BIN)/codespell && $(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy && $(BIN)/lint-imports
ui: $(INSTALLED) ; $(BIN)/mist_ui
bench: $(INSTALLED) ; $(BIN)/python bench/stages.py

# Build the documentation site into site/, and fail for a dead link or anchor.
docs: $(INSTALLED) ; $(BIN)/zensical build --strict --clean

# Build wheel and sdist of the tagged commit into dist/, check them, and write their bill of materials and release notes.
release: sbom
	git describe --exact-match --tags
	rm -rf dist
	.venv-audit/bin/python -m build --outdir dist
	.venv-audit/bin/twine check --strict dist/*
	cp sbom.json dist
	$(BIN)/python .ci/notes.py $$(git describe --exact-match --tags) > dist/notes.md

# Fetch the viewer that the pages of patients load, and check its hash. Its files are committed.
vendor: ; $(PYTHON) .ci/vendor.py

# Pictures of the pages of studies for docs/how-to/browser.md, in headless Chromium.
screenshots: $(INSTALLED) ; MIST_SCREENSHOTS=docs/how-to/pictures $(BIN)/pytest -q tests/dagster/test_pages.py

# Numeric tests without AVX-512 and in four processes, without AVX and on one core, and on other Pythons (`make
# OTHER_PYTHONS=/path/to/python3.13 test-portable`) with the newest versions of the dependencies that pyproject.toml allows.
test-portable: $(INSTALLED)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/pytest -m "not slow" --numprocesses 4 --dist loadfile $(NUMERIC)
	ATEN_CPU_CAPABILITY=default taskset --cpu-list 0 $(BIN)/pytest -m "not slow" $(NUMERIC)
	for python in $(OTHER_PYTHONS); do \
		$$python --version || { echo "Skipping $$python: it is not installed."; continue; }; \
		folder=.venv-$$(basename $$python); \
		$$python -m venv $$folder && \
		$$folder/bin/pip install --quiet --upgrade --upgrade-strategy eager $(INDEX_$(TORCH)) --editable '.[dev]' && \
		$$folder/bin/pytest -m "not slow" $(NUMERIC) || exit 1; \
	done

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
	.venv-audit/bin/pip install --quiet 'build>=1.3' 'cyclonedx-bom>=7,<8' 'pip-audit>=2.10,<3' 'twine>=6.1'
	touch $@
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(INDEX_$(TORCH)) --constraint constraints.txt --editable '.[dev]'
	touch $@
