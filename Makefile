# make demo    the main job on bundled data, with scores and a figure
# make test    lint, types, spelling, tests and doctests
# make lint    the first three of these
# make doc     the documentation, into doc/_build/html (EXAMPLES=0: without running them)
# make bench   the methods against their peers, in an environment of its own
# make clean   remove the environments and everything built
#
# Each sets up what it needs in .venv. PYTHON chooses the interpreter (3.11 or later):
#     make test PYTHON=python3.13

PYTHON     ?= python3
EXAMPLES   ?= 1
VENV       := .venv
BENCH      := .venv-bench
BENCHMARKS ?= benchmarks/tcmax.py benchmarks/graphical_lasso.py \
    benchmarks/held_out_likelihood.py benchmarks/graph_recovery.py \
    benchmarks/dp_mixture.py benchmarks/clustering.py benchmarks/accuracy.py
PIP_INSTALL = bin/pip install --quiet -c constraints.txt

# One thread: several threads on busy cores make small fits 10 to 40 times slower.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: help demo test lint doc bench clean

help:
	@sed -n '1,/^$$/ s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.with-plot
	$(VENV)/bin/python benchmarks/demo.py

test: lint
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.with-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

doc: $(VENV)/.with-doc
	$(VENV)/bin/sphinx-build -q -W --keep-going -D plot_gallery=$(EXAMPLES) doc doc/_build/html

bench: $(BENCH)/.ready
	@set -e; for file in $(BENCHMARKS); do \
	    echo "== $$file"; $(BENCH)/bin/python $$file; \
	done

clean:
	rm -rf $(VENV) $(BENCH) build *.egg-info doc/_build doc/auto_examples doc/generated \
	    doc/sg_execution_times.rst .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find skmm tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is a stamp file: made again when pyproject.toml or constraints.txt
# changes. torch goes in first, so that its build (CPU or CUDA) is the one pip is set up
# for, whatever the other packages ask.
.PRECIOUS: %/.torch
%/.torch: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or \
	    sys.exit("skmm needs Python 3.11 or later: make PYTHON=python3.13 ...")'
	$(PYTHON) -m venv $*
	$*/$(PIP_INSTALL) torch
	@touch $@

$(VENV)/.with-%: $(VENV)/.torch
	$(VENV)/$(PIP_INSTALL) -e ".[$*]"
	@touch $@

# One requirement a line; "# data" after it means: for its data files only, --no-deps.
$(BENCH)/.ready: $(BENCH)/.torch benchmarks/requirements.txt
	$(BENCH)/$(PIP_INSTALL) -e ".[plot,dataframe]"
	@grep -v '^#' benchmarks/requirements.txt | while read -r package mark; do \
	    test -n "$$package" || continue; \
	    case "$$mark" in *data*) flag=--no-deps ;; *) flag= ;; esac; \
	    $(BENCH)/$(PIP_INSTALL) $$flag "$$package" </dev/null \
	        || echo "bench: $$package cannot be installed, its rows are left out" >&2; \
	done
	@touch $@
