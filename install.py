"""Run by the WebUI before it starts, with its own Python. Installs nothing.

Training inside the WebUI needs what the WebUI pins itself, and a trainer that changes those pins breaks more
than it brings. So this only says what is missing; a later package must be one that nothing pins.
"""

import importlib.util

NEEDED = ("torch", "safetensors", "numpy", "PIL")


def main() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"sd-webui-lora-train: this WebUI lacks {', '.join(missing)}; training will not start without.")


if __name__ == "__main__":
    main()
