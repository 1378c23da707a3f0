# Each target sets up what it needs, once, outside the clone. Without make: python3 .ci/env.py demo, and so on.
PYTHON3 := $(shell command -v python3 || command -v python || echo python3)

.PHONY: help demo test lint clean
help:
	@echo "make demo   train a style on the checkpoint that comes with the project, and show it"
	@echo "make test   run the tests"
	@echo "make lint   check the code's form"
	@echo "make clean  remove the environments that these set up"

demo test lint clean:
	@$(PYTHON3) .ci/env.py $@
