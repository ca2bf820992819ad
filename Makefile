# Everything a person does with Touchstone. `make demo` and `make test` need Python 3.11, make and git; nothing else.
PYTHON ?= python3.11
PORT ?= 8000
DATA_DIR ?= $(CURDIR)/data
WEB_THREADS ?= 32
VENV := .venv
BIN := $(VENV)/bin
export PORT DATA_DIR WEB_THREADS

.PHONY: demo test test-fast check bench serve worker migrate clean

demo: $(VENV)/.installed
	@DEMO=1 $(BIN)/python manage.py demo

test: $(VENV)/.installed-dev
	@tests/run.sh

test-fast: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -q -m "not browser and not worker" -n 2

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy graders tasks llm
	$(BIN)/lint-imports
	DEMO=1 $(BIN)/python manage.py makemigrations --check --dry-run

bench: $(VENV)/.installed-dev
	@$(BIN)/python -m bench

# The two production processes, configured by the environment (.env.example lists the names).
serve: $(VENV)/.installed
	@$(BIN)/python manage.py migrate --noinput
	@$(BIN)/python manage.py sync_tasks
	@$(BIN)/python manage.py collectstatic --noinput -v 0
	@exec $(BIN)/gunicorn reviewapp.wsgi --bind 0.0.0.0:$(PORT) --workers 2 --threads $(WEB_THREADS) --access-logfile -

worker: $(VENV)/.installed
	@exec $(BIN)/celery -A reviewapp worker -B --schedule=$(DATA_DIR)/beat -Q grade-cpu,grade-gpu,judge,rollout,export --loglevel=info

migrate: $(VENV)/.installed
	@$(BIN)/python manage.py migrate --noinput

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	@echo "Installing requirements.txt into $(VENV) (the first time takes some minutes, torch most of them)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	@echo "Installing requirements-dev.txt into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) staticfiles
