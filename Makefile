# `make demo` shows the program at work, `make test` checks it. Both first set up what they need.

python := .venv/bin/python

.PHONY: help venv dev horovod demo test test-all bench bench-gpu lint format lock clean
# All targets share one .venv, so `make -j` must not run two at once.
.NOTPARALLEL:

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 12

venv: ## Make .venv: CPython 3.7 and requirements.lock
	@tools/make_venv.sh

dev: ## Add what the checks need: requirements-dev.lock
	@tools/make_venv.sh dev

horovod: venv ## Add Horovod for training on several GPUs, built from source
	@tools/make_horovod.sh

demo: venv ## Fine-tune, evaluate and export on bundled data
	$(python) examples/demo.py

# Two processes: most of the time goes into building graphs, which one core does.
test: dev horovod ## Run the fast tests
	$(python) -m pytest --numprocesses=2 --dist=worksteal

test-all: dev horovod ## Run the slow tests too
	$(python) -m pytest -m ''

bench: dev ## Measure this program and its peers, about 45 minutes; BENCH_FLAGS=--help says more
	@tools/make_hugging_face.sh || true
	$(python) benchmarks/bench.py $(BENCH_FLAGS)

bench-gpu: venv ## Measure training steps of BERT-base on a GPU
	$(python) benchmarks/gpu.py

lint: dev ## Check style and types
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy *.py bert_classifier

format: dev ## Put the code in the style of the project
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

lock: ## Write the .lock files from the requirements .txt files
	@tools/make_locks.sh

clean: ## Remove what these targets made
	rm -rf .cache .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis
	for venv in .venv .venv-hugging-face; do if [ -e $$venv/made-from ]; then rm -rf $$venv; fi; done
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +
