# make repro   install, run the pipeline, show the result
# make check   install, then lint, types and tests: what must pass before a commit
# make format  install, correct what lint can correct
# make docs    install, write the table of docs/params.md
# make site    install, build the site of docs/ in build/site
# make networks  install, measure the networks of tests/zoo, write the table of docs/networks.md
# make test    install, run the tests; COVERAGE=1 measures what they cover
# make test-slow  the slow tests, those in a browser (Debian's chromium), an eighth of the zoo
# make faults  kills, damage and attacks at random: TRIES of most kinds, fewer of those that run the whole pipeline, from SEED
# make test-zoo  all networks of tests/zoo
# make test-extra  slow tests for which CI has no time
# make test-cluster  a sweep over four hosts of Ray on this one, of which one is killed
.DEFAULT_GOAL := repro
.DELETE_ON_ERROR:
.PHONY: repro check format docs site networks test test-slow faults test-zoo test-cluster test-extra benchmark spread lint types lock

PYTHON ?= python3
INSTALLED := .venv/installed
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

repro: $(INSTALLED)
	dvc repro
	dvc repro pipelines/benchmark/dvc.yaml
	@PYTHONPATH=src python -m ptqflow summary
	@PYTHONPATH=src python -m ptqflow report > /dev/null
	@echo "More in report.html."

check: lint types test

test: $(INSTALLED)
	pytest -n 2 -m "not slow and not browser and not faults" $(if $(COVERAGE),--cov --cov-report=term) $(TESTS)

test-slow: $(INSTALLED)
	pytest -n 2 -m "(slow or browser) and not zoo and not cluster and not extra" $(TESTS)

test-extra: $(INSTALLED)
	pytest -n 2 -m extra $(TESTS)

test-cluster: $(INSTALLED)
	pytest -m cluster tests/pipeline/test_sweep.py

# Writes docs/reliability.md. A failing try is repeated alone by its name: make faults TESTS='tests/faults/…[0-17]'
TRIES ?= 1000
SEED ?= 0
faults: $(INSTALLED)
	pytest -n 2 -m "faults" --tries $(TRIES) --seed $(SEED) --reliability docs/reliability.md $(or $(TESTS),tests/faults)

test-zoo: $(INSTALLED)
	pytest -n 2 -m slow tests/zoo

# Measures again and shows it in the report.
benchmark: $(INSTALLED)
	dvc repro --force --single-item pipelines/benchmark/dvc.yaml
	PYTHONPATH=src python -m ptqflow report

spread: $(INSTALLED) pipelines/spread/dvc.yaml
	dvc repro pipelines/spread/dvc.yaml

# A copy for whoever wants it: DVC would miss the outputs of a pipeline that never ran in every checkout and exp apply.
pipelines/spread/dvc.yaml: pipelines/spread/pipeline.yaml
	cp $< $@

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	git ls-files -z | xargs -0 codespell
	python .ci/words.py

format: $(INSTALLED)
	ruff check --fix .
	ruff format .

docs: $(INSTALLED)
	PYTHONPATH=src python .ci/params_table.py

site: $(INSTALLED)
	PYTHONPATH=src NO_MKDOCS_2_WARNING=1 mkdocs build --quiet
	@echo "build/site/index.html"

networks: $(INSTALLED)
	PYTHONPATH=src:tests python tests/zoo/table.py

types: $(INSTALLED)
	mypy

# Pins what pyproject.toml allows. A local version such as +cpu belongs to one machine and stays out.
lock:
	rm -rf .venv
	"$(PYTHON)" -m venv .venv
	python -m pip install --quiet torch==2.13.0 torchvision==0.28.0 -e '.[dev]'
	{ echo "# Every package of the development environment, pinned. Made by 'make lock' from pyproject.toml."; \
	  python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu//' | grep -v '^nvidia-[^m]\|^cuda-\|^triton'; } > requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, $(PYTHON) is " + v + ": name another one with make PYTHON=python3.12")'
	"$(PYTHON)" -m venv .venv
	python -m pip install --progress-bar off --quiet --no-compile -r requirements.lock  # compiled when first imported
	python -m pip install --quiet --no-compile --no-deps --no-build-isolation --editable .
	python -m ptqflow.offline_plots
	$(if $(PYTHONDONTWRITEBYTECODE),python -m compileall -qq -j 0 .venv/lib || true)  # else each process would compile torch again
	@touch $@
