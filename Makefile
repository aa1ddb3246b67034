# `make demo` and `make test` are all that a new machine needs: Python 3.11+, make, a package index.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.PHONY: demo test check check-newest check-oldest test-engines install-engines test-recipes live dist lint types docs site notebooks chart install install-tools clean

# Keeps what Python compiles, also where the environment forbids it: the next command starts faster.
demo: install
	PYTHONDONTWRITEBYTECODE= $(BIN)/harvester demo

# The tests start the program hundreds of times, which compiles itself each time where the
# environment forbids to keep what was compiled.
test: install-tools
	$(BIN)/python -m compileall -q harvester
	$(BIN)/pytest -n auto --dist worksteal

# check-oldest is for releases: with it, a slow machine would take more than 15 minutes.
check: lint types test check-newest

# What a user gets, who knows nothing of constraints.txt: the newest version of every dependency, and
# the oldest that pyproject.toml allows. Each has a venv of its own. The commands are run before the
# extras and the tools of the tests are installed. The SQL runs with the newest in test-engines.
IN_VENV = pytest pytest-timeout pytest-xdist hypothesis
COMMANDS = tests/integration/test_installed.py

check-newest: install-tools
	rm -rf build/newest
	$(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet --no-compile .
	PYTHONDONTWRITEBYTECODE= HARVESTER_PYTHON=build/newest/bin/python $(BIN)/pytest $(COMMANDS)

check-oldest: install-tools
	rm -rf build/oldest
	$(PYTHON) -m venv build/oldest
	$(PYTHON) .ci/oldest.py > build/oldest/constraints.txt
	build/oldest/bin/python -m pip install --quiet --constraint build/oldest/constraints.txt .
	HARVESTER_PYTHON=build/oldest/bin/python $(BIN)/pytest $(COMMANDS)
	build/oldest/bin/python -m pip install --quiet --constraint build/oldest/constraints.txt '.[polars]' $(IN_VENV)
	build/oldest/bin/python -m pytest -n auto tests/integration/test_sql.py

# Other programs, as they come from the package index, on an archive. They have a venv of their own, as
# they bring many packages; each is a line of tests/engines/requirements.txt. They stay there until
# `make clean`. Python compiles what the tests import, which is far from all. The files that take
# longest are the first to be begun. Spark's Java compiles simply, as each of its programs is short.
ENGINES = build/engines/bin/python
JAVA = JDK_JAVA_OPTIONS='-XX:TieredStopAtLevel=1 -XX:+UseSerialGC'

test-engines: install-engines
	PYTHONDONTWRITEBYTECODE= $(JAVA) $(ENGINES) -m pytest -n auto --dist loadfile --no-loadscope-reorder \
	    tests/engines/test_spark.py tests/engines/test_spark_programs.py tests/engines \
	    tests/integration/test_sql.py

install-engines: build/engines/.installed

build/engines/.installed: pyproject.toml tests/engines/requirements.txt
	rm -rf build/engines
	$(PYTHON) -m venv build/engines
	$(ENGINES) -m pip install --quiet --no-compile --editable '.[polars,s3]' $(IN_VENV) --requirement tests/engines/requirements.txt
	touch $@

# The programs of docs/recipes.md. For releases, as they take long to install.
test-recipes:
	rm -rf build/recipes
	$(PYTHON) -m venv build/recipes
	build/recipes/bin/python -m pip install --quiet . $(IN_VENV) --requirement tests/engines/recipes.txt
	build/recipes/bin/python -m pytest -n auto --dist loadfile tests/engines

# Asks the real exchange, for about ten minutes: neither `check` nor CI runs it.
live: install
	$(BIN)/harvester doctor --exchange
	rm -rf build/live
	mkdir -p build
	$(BIN)/harvester backfill XBT/USD --since 10d --data build/live
	$(BIN)/harvester verify XBT/USD --against-exchange --data build/live

# The files for a package index, and what one gets who installs them from it.
dist: install-tools
	rm -rf dist build/dist
	$(PYTHON) -m venv build/dist/tools
	build/dist/tools/bin/python -m pip install --quiet build twine
	build/dist/tools/bin/python -m build
	build/dist/tools/bin/twine check --strict dist/*
	$(PYTHON) -m venv build/dist/installed
	build/dist/installed/bin/python -m pip install --quiet dist/*.whl
	HARVESTER_PYTHON=build/dist/installed/bin/python $(BIN)/pytest $(COMMANDS)

lint: install-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-tools
	$(BIN)/mypy

docs: install-tools
	$(BIN)/python docs/cli_page.py > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md

# The pages as a website in site/, which loads nothing from other hosts. The links of the pages lead to
# the README, the notebooks and config.toml, so these belong to it. `mkdocs serve` shows it while you write.
PAGES = README.md CHANGELOG.md config.toml docs notebooks benchmarks/README.md

site: install-tools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	rm -rf build/pages
	mkdir -p build/pages/benchmarks
	for page in $(PAGES); do ln -s "$(CURDIR)/$$page" build/pages/$$page || exit; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pages' images: the demo's chart, the explorer and a notebook's figure, drawn by the Chromium that is installed.
chart: install-tools
	$(BIN)/harvester demo --quiet
	$(BIN)/harvester chart XBT/USD -i 1h --data demo/data -o docs/chart.png
	$(BIN)/python docs/explore_image.py demo/data docs/explore.png
	$(BIN)/python docs/backtest_image.py docs/backtest.png

# Pages of the notebooks with all that they show: build/notebooks/*.html.
notebooks: install-tools
	rm -rf build/notebooks
	mkdir -p build/notebooks
	cp notebooks/*.ipynb build/notebooks
	for notebook in build/notebooks/*.ipynb; do rm -rf build/notebooks/made-up; \
	    $(BIN)/jupyter nbconvert --execute --to html $$notebook || exit; done

# harvester and the libraries that it runs with.
install: $(VENV)/.installed

# Also what the tests, the notebooks, images and `harvester mcp` need: twice as much.
install-tools: $(VENV)/.installed-tools

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "harvester needs Python 3.11 or newer; make PYTHON=python3.12 names one")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Nothing is compiled: Python does that for each module that it imports, in less time than pip for all.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP_INSTALL) --editable .
	touch $@

# The tests import almost everything, hundreds of times. What can't be compiled, pip would ignore, too.
$(VENV)/.installed-tools: pyproject.toml constraints.txt | $(VENV)/.made
	$(PIP_INSTALL) --editable '.[notebook,png,mcp,s3,dev]'
	-$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) demo build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
