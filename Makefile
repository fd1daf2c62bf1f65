.PHONY: check format lint types imports test slow

# What .ci/run checks, in the environment at hand.
check: lint types imports test

format:
	ruff format .
	ruff check --fix .

lint:
	ruff format --check .
	ruff check .

types:
	mypy

imports:
	lint-imports

test:
	python -m pytest -n 2

slow:
	python -m pytest -m slow
