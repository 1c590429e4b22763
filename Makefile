# Two commands are all a user needs: `make demo` and `make test`. Each makes its own virtual environment (Python 3.10 or
# newer, g++ and make are all it needs), installs the exact tested versions, compiles the operators, and goes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install -c constraints.txt
CUDA_TOOLCHAIN := nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl
# Of test-gpu and bench-gpu: the virtual environment's, or another one with PyTorch for CUDA and, if its operators are
# to be tried too, Paddle for CUDA.
GPU_PYTHON ?= $(BIN)/python
ifeq ($(GPU_PYTHON),$(BIN)/python)
GPU_READY := $(VENV)/.onnx,dev,bench $(VENV)/.nvcc
endif
CUDA_TOOLS := nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm nvidia-cuda-nvrtc-cu12
SOURCES := constraints.txt pyproject.toml setup.py
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-originals test-paddlenlp check check-cuda check-cuda-bugs check-gpu-emulated test-gpu sanitize-gpu bench-gpu gpu-libraries format bench bench-paddlenlp bench-trainer docs build cuda clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.onnx build ## Fine-tune, evaluate, export, verify and report on real data (under 10 minutes).
	$(BIN)/paddle-infra demo

test: $(VENV)/.onnx,dev build ## Run all tests but the slow ones.
	$(BIN)/paddle-infra resources fetch minilm-l6 multilingual-e5-small trec-questions conll2003
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-slow: $(VENV)/.onnx,dev build ## Run the slow tests.
	$(BIN)/python -m pytest -m slow $(ARGS)

test-originals: $(VENV)/.onnx,dev build .venv-paddlenlp/.made .venv-torch-trainers/.made ## Hold models to those of transformers and PaddleNLP, loaded and saved.
	$(BIN)/python -m pytest -m slow tests/models/test_originals.py tests/models/test_generation_originals.py tests/models/test_vit.py $(ARGS)

test-paddlenlp: .venv-paddlenlp/.tests build ## Run the tests of PaddleNLP's models in an environment of their own.
	PYTHONPATH=. .venv-paddlenlp/bin/python -m pytest -m 'not exhaustive' tests/integrations $(ARGS)

check: $(VENV)/.onnx,dev build ## Lint, formats, types, layering, and the commands that the README names.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cc' 'csrc/*.cu' 'csrc/*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/python -m pytest -q tests/test_layering.py tests/test_readme.py

check-cuda: $(VENV)/.onnx,dev $(VENV)/.nvcc build ## What takes longer of what can be known of the CUDA kernels without a GPU.
	$(INSTALL) $(CUDA_TOOLS)
	$(BIN)/python -m pytest -m slow -n auto tests/cuda tests/gpu/test_gpu_bench.py tests/build/test_cuda_library.py $(ARGS)
	$(BIN)/python -m pytest -n auto tests/cuda/test_nvrtc.py $(ARGS)

check-cuda-bugs: $(VENV)/.onnx,dev build ## Plant every bug in the CUDA kernels and look for it (hundreds: long).
	$(BIN)/python -m pytest -m 'slow or exhaustive' -n auto tests/cuda/test_mutations.py $(ARGS)

check-gpu-emulated: $(VENV)/.onnx,dev build ## Run the tests for GPUs on emulated kernels (10 minutes).
	$(BIN)/python -m pytest -m slow -n auto --dist loadfile tests/gpu $(ARGS)

test-gpu: gpu-libraries ## Hold the CUDA kernels to float64 on this machine's GPU, and look for wrong accesses and races.
	$(GPU_PYTHON) -m pytest tests/gpu -k "not emulated" --ignore tests/gpu/test_paddle_gpu.py $(ARGS)
	$(GPU_PYTHON) -m pytest tests/gpu/test_paddle_gpu.py $(ARGS)
	@if command -v compute-sanitizer >/dev/null; then $(MAKE) --no-print-directory sanitize-gpu; \
	else echo "compute-sanitizer is not installed: accesses of memory, races and barriers were not checked"; fi

# Every allocation is one of CUDA's own, so that memcheck knows where each array ends.
sanitize-gpu: gpu-libraries ## Run every CUDA kernel once under memcheck, racecheck and synccheck.
	for tool in memcheck racecheck synccheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --target-processes all --error-exitcode 1 \
			$(GPU_PYTHON) -m pytest -q tests/gpu/test_each_kernel.py -k "not emulated" $(ARGS) || exit 1; \
	done

bench-gpu: gpu-libraries ## Time the CUDA kernels beside PyTorch and peers on this machine's GPU.
	$(GPU_PYTHON) benchmarks/bench_gpu.py $(ARGS)
	$(GPU_PYTHON) benchmarks/report_gpu.py

gpu-libraries: $(GPU_READY)
	@$(GPU_PYTHON) csrc/build.py --output-dir paddle_infra/_lib
	@PADDLE_INFRA_CUDA=1 $(GPU_PYTHON) csrc/build.py --standalone --output-dir build/cuda

format: $(VENV)/.onnx,dev ## Rewrite the sources in the project's format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.h' 'csrc/*.cc' 'csrc/*.cu' 'csrc/*.cuh' | xargs $(BIN)/clang-format -i

bench: $(VENV)/.onnx,bench build ## Time the operators against their peers; rows go to benchmarks/data/.
	$(BIN)/python benchmarks/bench_attention.py $(ARGS)
	$(BIN)/python benchmarks/bench_linear_cross_entropy.py $(ARGS)
	$(BIN)/python benchmarks/bench_linear.py $(ARGS)
	$(BIN)/python benchmarks/bench_block.py $(ARGS)
	$(BIN)/python benchmarks/bench_encoder.py $(ARGS)
	$(BIN)/python benchmarks/bench_linear_int8.py $(ARGS)
	$(BIN)/python benchmarks/bench_linear_topk.py $(ARGS)
	$(BIN)/python benchmarks/bench_generate.py $(ARGS)
	$(BIN)/python benchmarks/bench_tune_cpu.py
	$(BIN)/python benchmarks/bench_data_parallel.py

bench-paddlenlp: .venv-paddlenlp/.made build ## Time PaddleNLP's models as they are and accelerated.
	.venv-paddlenlp/bin/python benchmarks/bench_paddlenlp.py $(ARGS)

bench-trainer: $(VENV)/.onnx build .venv-paddlenlp/.made .venv-torch-trainers/.made ## Time training loops beside PaddleNLP's, Hugging Face's and Lightning's.
	$(BIN)/python benchmarks/bench_trainer.py $(ARGS)
	$(BIN)/python benchmarks/report_trainer.py

docs: $(VENV)/.onnx,docs build ## Build the documentation into docs/_build/html.
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

build: $(VENV)/.base ## Compile the operators (only what changed).
	@$(BIN)/python csrc/build.py --output-dir paddle_infra/_lib

cuda: $(VENV)/.nvcc ## Compile the CUDA kernels into a library of their own, without a GPU (fetches nvcc if there is none).
	@PADDLE_INFRA_CUDA=1 $(BIN)/python csrc/build.py --standalone --output-dir build/cuda

clean: ## Remove the virtual environment and everything built.
	rm -rf $(VENV) build dist docs/_build paddle_infra/_lib paddle_infra.egg-info

# The compiled operators link with Paddle, so Paddle comes first and the package is built without isolation.
$(VENV)/.base: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11")'
	@command -v $${CXX:-g++} >/dev/null || { echo "g++ is needed to compile the operators (Debian, Ubuntu: apt install g++)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip setuptools wheel
	$(INSTALL) ninja paddlepaddle
	@touch $@

# What bench-trainer and test-originals compare with, which cannot all be installed side by side. The first one, which
# tests and benchmarks of PaddleNLP's models use too, finds this package in PYTHONPATH, so it has what that imports.
.venv-paddlenlp/.made: constraints.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install -c constraints.txt paddlepaddle filelock jinja2 rich \
		paddlenlp aistudio_sdk datasets huggingface_hub
	@touch $@

.venv-paddlenlp/.tests: .venv-paddlenlp/.made
	$(@D)/bin/python -m pip install -c constraints.txt pytest pytest-timeout pytest-xdist onnxruntime safetensors
	@touch $@

.venv-torch-trainers/.made: benchmarks/constraints-torch-trainers.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install -c benchmarks/constraints-torch-trainers.txt torch transformers accelerate lightning peft
	@touch $@

$(VENV)/.nvcc: constraints.txt $(VENV)/.base
	@$(BIN)/python csrc/build.py --find-nvcc 2>/dev/null || $(INSTALL) $(CUDA_TOOLCHAIN)
	@touch $@

# seqeval comes as source only and must be built in isolation: it needs a build tool that is not ours to install.
# paddle2onnx asks for an old onnx, which it does not use to convert: the tests try both converters side by side.
$(VENV)/.%: $(SOURCES) $(VENV)/.base
	$(if $(findstring dev,$*),$(INSTALL) seqeval)
	$(INSTALL) --no-build-isolation -e '.[$*]'
	$(if $(findstring dev,$*),$(INSTALL) --no-deps paddle2onnx)
	@touch $@
