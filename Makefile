# The verbs of the house. `make demo` and `make test` need only Python >= 3.11; they make .venv themselves.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test unit soak check alerts bench lock clean

$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "kbackupd needs Python 3.11 or newer on PATH (or make PYTHON=/path/to/python)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## real Kafka and S3: produce, back up, kill -9, validate, destroy, restore, compare (KEEP=1 leaves it running)
	$(BIN)/python -m kbackupd.testbed.demo $(if $(KEEP),--keep)

# In the order of their names: integration comes first and ends with what is short, so that no worker is left alone with a long file.
test: $(STAMP)  ## the whole suite, real Kafka and S3 included
	$(BIN)/python -m pytest -m "not soak" -n 2 --dist loadfile --no-loadscope-reorder

unit: $(STAMP)  ## only what needs no server: seconds
	$(BIN)/python -m pytest tests/unit -q

HOURS ?= 1
soak: $(STAMP)  ## load and random faults for HOURS (1), SEED=… to repeat one: not a record may be missing (docs/testing.md)
	$(BIN)/python -m kbackupd.testbed.soak --hours $(HOURS) $(if $(SEED),--seed $(SEED))

check: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy kbackupd tests bench
	$(BIN)/lint-imports

alerts: $(STAMP)  ## the alert rules: promtool's tests, and every expression against a live daemon (Debian: apt install prometheus)
	promtool check rules config/prometheus/kbackupd.rules.yml
	promtool test rules config/prometheus/kbackupd.rules.test.yml
	$(BIN)/python -m kbackupd.testbed.try_expressions

bench: $(STAMP)  ## throughput, CPU per GiB and peak RSS as a share of what the machine can do, there and back; then 10,000 partitions, 100,000 segments
	$(BIN)/python -m bench.throughput
	$(BIN)/python -m bench.throughput --batch-records 1 --gib 0.1 --topics uncompressed,lz4
	$(BIN)/python -m bench.restore
	$(BIN)/python -m bench.restore --apart
	$(BIN)/python -m bench.partitions --brokers 1
	$(BIN)/python -m bench.partitions --brokers 3
	$(BIN)/python -m bench.long_archive --segments 100000 --rows 1000000 --directory .testbed/long-archive --steps "generate,roll up,plan,plan all,plan window,plan instant"

UV_COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q
BUILD_REQUIRES = import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))

lock: $(STAMP)  ## refresh the hash-locked requirements: of everything, and of what an installation needs out of it
	$(BIN)/python -m pip install -q uv
	$(UV_COMPILE) pyproject.toml --extra dev --extra build -o requirements.lock
	$(UV_COMPILE) pyproject.toml -c requirements.lock -o requirements-runtime.lock
	$(BIN)/python -c '$(BUILD_REQUIRES)' | $(UV_COMPILE) - -c requirements.lock -o requirements-build.lock

clean:
	rm -rf $(VENV) .testbed
