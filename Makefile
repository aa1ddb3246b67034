# `make demo` and `make test` are all that a new machine needs: Python 3.11+, make, a package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test check lint types docs notebooks chart install clean

demo: install
	$(BIN)/harvester demo

# The tests start the program hundreds of times, which compiles itself each time where the
# environment forbids to keep what was compiled.
test: install
	$(BIN)/python -m compileall -q harvester
	$(BIN)/pytest -n auto --dist worksteal

check: lint types test

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

docs: install
	$(BIN)/python -m harvester.cli.reference > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md

# The README's image: the demo's chart, drawn by the Chromium that is installed.
chart: install
	$(BIN)/harvester demo --quiet
	$(BIN)/harvester chart XBT/USD -i 1h --data demo/data -o docs/chart.png

# Pages of the notebooks with all that they show: build/notebooks/*.html.
notebooks: install
	rm -rf build/notebooks
	mkdir -p build/notebooks
	cp notebooks/*.ipynb build/notebooks
	for one in build/notebooks/*.ipynb; do rm -rf build/notebooks/made-up; \
	    $(BIN)/jupyter nbconvert --execute --to html $$one || exit; done

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "harvester needs Python 3.11 or newer; make PYTHON=python3.12 names one")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebook,png,dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
