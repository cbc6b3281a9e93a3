# The commands of the project. Each installs what it lacks (scripts/setup) and builds by a CMake
# preset.
#
#   make demo              train a small model, then make it forget, method by method;
#                          MODEL=smollm2: teach that model, then make it forget (10 minutes)
#   make model             put SmolLM2-135M-Instruct into models/smollm2-135m (93 MB to download)
#   make test-model        run transformers beside the models of examples/models (5 GB to download)
#   make experiment        compare all methods at equal forgetting, QUICK=1: a trial of a minute;
#                          MODEL=smollm2: on that model (two hours; TOFU's folder: ARGS="--data FOLDER");
#                          what is finished is kept, the same command goes on
#   make test              build and run all tests
#   make bench             build and run the benchmarks; QUICK=1: the main table, in a minute
#   make bench-model       an iteration on SmolLM2 beside transformers, into docs/benchmarks.md (5 GB to download)
#   make torture            kill the trainer 200 times, resume it, compare the bits (half an hour)
#   make golden FILES=...  check golden vectors that the oracle wrote
#   make tofu_metrics      build the metrics of TOFU's evaluation logs
#   make report            draw the report of an experiment, RESULTS=FOLDER;
#                          MODEL=smollm2: a page, build/experiment-smollm2/results.md
#   make results           write docs/results.md; RESULTS=FOLDER: of that experiment, kept in docs/results;
#                          MODEL=smollm2: docs/results_smollm2.md
#   make cuda              compile the CUDA kernels and test them without a GPU; a line for each
#   make docs              build the reference, into build/docs
#   make format            format the C++ files
#   make lint              clang-tidy over the headers
#
# PRESET=clang and so on choose another preset; JOBS=n another number of parallel compilers;
# ARGS=... goes to the program of `demo`, `experiment`, `bench`, `bench-model`, `torture` and `report`.
PRESET ?= release
JOBS ?= $(shell nproc)
RESULTS ?= build/experiment$(if $(filter smollm2,$(MODEL)),-smollm2/results,$(if $(QUICK),-quick))
BUILD := build/$(PRESET)

.PHONY: help setup dev-setup configure demo model test-model experiment test bench bench-model torture golden tofu_metrics \
  report results cuda docs format lint

help:
	@sed -n 's/^#   make/make/p' Makefile

setup:
	@scripts/setup

dev-setup:
	@scripts/setup --dev

configure: setup
	@cmake --preset $(PRESET)

# The checkpoint's data: questions and answers without its chat template, which is longer than they.
demo: configure $(if $(filter smollm2,$(MODEL)),model)
	@cmake --build $(BUILD) -j $(JOBS) --target continual
	@$(if $(MODEL),$(DEMO_CHECKPOINT),$(BUILD)/bin/continual --out build/demo $(ARGS))

DEMO_CHECKPOINT = $(BUILD)/bin/continual --model $(if $(filter smollm2,$(MODEL)),models/smollm2-135m,$(MODEL)) \
  --format 'Question: {question}\nAnswer: {answer}' --tasks 3 --authors-per-task 2 \
  --retain-authors 8 --teach 8 --teach-until 0.8 --sweep 1,2,4,8 --out build/demo-$(notdir $(MODEL)) $(ARGS)

model:
	@scripts/model/run

test-model: configure
	@scripts/setup --model
	@cmake --build $(BUILD) -j $(JOBS) --target model_probe tokenize_lines
	@.venv-model/bin/python tests/models/live.py $(BUILD)/tests/models/model_probe
	@if [ -d models/smollm2-135m ]; then .venv-model/bin/python tests/tokenizers/live.py \
	  $(BUILD)/tests/tokenizers/tokenize_lines models/smollm2-135m README.md docs/guide.md; fi

# Resumes: what is finished in the folder is kept.
experiment: configure $(if $(filter smollm2,$(MODEL)),model)
	@cmake --build $(BUILD) -j $(JOBS) --target experiment$(if $(filter smollm2,$(MODEL)),_smollm2)
	@$(if $(filter smollm2,$(MODEL)),OMP_WAIT_POLICY=passive $(BUILD)/bin/experiment_smollm2 $(ARGS),\
	  $(BUILD)/bin/experiment --out build/experiment$(if $(QUICK),-quick --quick) $(ARGS))

test: configure
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --preset $(PRESET) -j $(JOBS)

bench: configure
	@cmake --build $(BUILD) -j $(JOBS) --target benchmarks
	@$(BUILD)/bin/bench_step_cost $(ARGS)
	@if [ "$(QUICK)" != 1 ]; then \
	  $(BUILD)/bin/bench_kernels && $(BUILD)/bin/bench_token_log_probability && $(BUILD)/bin/bench_passes && \
	    $(BUILD)/bin/bench_step_cost --shapes smollm2 --gradients docs/benchmarks/gradients.json \
	      --out build/bench/real_gradients.json; \
	fi

bench-model: configure
	@scripts/setup --model
	@scripts/model/run
	@cmake --build $(BUILD) -j $(JOBS) --target bench_model_iteration
	@.venv-model/bin/python benchmarks/model_iteration.py --out docs/benchmarks/model_iteration.json $(ARGS)
	@.venv-model/bin/python benchmarks/processes.py --out docs/benchmarks/processes.json $(ARGS)
	@scripts/bench_docs page

torture: configure
	@cmake --build $(BUILD) -j $(JOBS) --target continual
	@scripts/torture $(BUILD)/bin/continual $(ARGS)

golden: configure
	@if [ -z "$(FILES)" ]; then echo 'golden: expected FILES="a.json b.json", got none' >&2; exit 1; fi
	@cmake --build $(BUILD) -j $(JOBS) --target golden
	@$(BUILD)/bin/golden $(FILES)

tofu_metrics: configure
	@cmake --build $(BUILD) -j $(JOBS) --target tofu_metrics
	@mkdir -p build/bin && ln -sfn ../$(PRESET)/bin/tofu_metrics build/bin/tofu_metrics
	@echo "built build/bin/tofu_metrics"

report:
	@$(if $(filter smollm2,$(MODEL)),$(SMOLLM2_PAGE) $(RESULTS) build/experiment-smollm2/results.md,\
	  scripts/report/run $(RESULTS) $(ARGS))

results:
	@$(if $(filter smollm2,$(MODEL)),$(SMOLLM2_PAGE) docs/results_smollm2 docs/results_smollm2.md,$(SMALL_RESULTS))

SMOLLM2_PAGE = python3 scripts/report/smollm2.py

SMALL_RESULTS = $(if $(filter file,$(origin RESULTS)),,scripts/report/run $(RESULTS) --keep docs/results &&) \
  scripts/report/run docs/results --docs docs/results.md

cuda: configure
	@cmake --build $(BUILD) -j $(JOBS) --target cuda_emulation_tests
	@ctest --preset $(PRESET) -L cuda
	@scripts/cuda_kernels build/cuda_kernels $(BUILD)/tests/cuda/cuda_emulation_tests

docs: dev-setup
	@scripts/docs

format: dev-setup
	@scripts/format

lint: dev-setup
	@cmake --preset clang
	@scripts/lint build/clang
