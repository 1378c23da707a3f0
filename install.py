"""Run by the WebUI before it starts, with its own Python. Installs nothing.

Training inside the WebUI needs what the WebUI pins itself, and a trainer that changes those pins breaks more
than it brings. So this only says what is missing or too old. Packages that only some features need are added
when a person asks for one; docs/install.md.
"""

import os
import sys

# distribution -> the oldest version that is tried
NEEDED = {"torch": "2.1.2", "safetensors": "0.4.2", "numpy": "1.26.2", "pillow": "9.5.0"}
LAST = ".dist-info"


def installed(folders):
    """Name -> version, as the names of pip's folders have them: importlib.metadata takes 0.1 s to import."""
    found = {}
    for folder in filter(os.path.isdir, folders):
        for entry in os.listdir(folder):  # noqa: PTH208 (pathlib is slow to import, too)
            if entry.endswith(LAST):
                name, _, version = entry[: -len(LAST)].partition("-")
                found.setdefault(name.lower(), version)
    return found


def numbers(version):
    words = version.partition("+")[0].split(".")[:3]
    return [int("".join(filter(str.isdigit, word)) or 0) for word in words]


def remarks(found):
    """What a person should know, in sentences; none where all is well."""
    said = []
    for name, oldest in NEEDED.items():
        if name not in found:
            said.append(f"this WebUI lacks {name}; training will not start without.")
        elif numbers(found[name]) < numbers(oldest):
            said.append(f"this WebUI has {name} {found[name]}; training is tried with {oldest} and later.")
    return said


def main():
    try:
        for remark in remarks(installed(sys.path)):
            print(f"sd-webui-lora-train: {remark}")
    except Exception as e:  # noqa: BLE001 (what is odd about an environment shall not keep a WebUI from starting)
        print(f"sd-webui-lora-train: could not look for packages ({type(e).__name__}: {e}).")


if __name__ == "__main__":
    main()
