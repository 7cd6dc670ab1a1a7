# `make demo` shows the program at work, `make test` checks it. Both first set up what they need.
# With TF=2.15 all targets do the same on TensorFlow 2.15, in an environment of its own.

TF ?= 1.15
export TF

python := $(if $(filter 2.15,$(TF)),.venv-tf2.15,.venv)/bin/python

.PHONY: help venv dev horovod advice demo test test-all bench bench-gpu lint format lock clean
# All targets share an environment, so `make -j` must not run two at once.
.NOTPARALLEL:

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 12
	@echo 'TF=2.15 behind a target: the same on TensorFlow 2.15, in .venv-tf2.15. GPU=1 there'
	@echo 'installs it with CUDA and GPU=0 without; otherwise the NVIDIA driver decides.'

venv: ## Make .venv: CPython 3.7 and TensorFlow 1.15
	@tools/make_venv.sh

dev: ## Add what the checks need
	@tools/make_venv.sh dev

horovod: venv ## Add Horovod for training on several GPUs, built from source
	@tools/make_horovod.sh

demo: advice venv ## Fine-tune, evaluate and export on bundled data
	$(python) examples/demo.py

# First, so that who has such a GPU can stop before anything is downloaded.
advice:
	@tools/advise_gpu.sh demo

# Neither TensorFlow nor the version of Python changes what these find: 1.15 runs them for both.
tested_once := test_bench.py test_docs.py test_layout.py test_quality.py
tested_once += test_setup.py test_setup_hugging_face.py data/test_tables.py

# Two processes: most of the time goes into building graphs, which one core does.
test: dev horovod ## Run the fast tests
	$(python) -m pytest --numprocesses=2 --dist=worksteal \
		$(if $(filter 2.15,$(TF)),$(tested_once:%=--ignore=tests/%))

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

lock: ## Write the .lock files of TF from the requirements .txt files
	@tools/make_locks.sh

clean: ## Remove what these targets made
	rm -rf .cache .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis
	for venv in .venv .venv-tf2.15 .venv-hugging-face; do \
		if [ -e $$venv/made-from ]; then rm -rf $$venv; fi; \
	done
	find . -path './.venv*' -prune -o -name __pycache__ -prune -exec rm -rf {} +
