"""`python -m lora_train`."""

import sys

from lora_train.cli import main

if __name__ == "__main__":
    sys.exit(main())
