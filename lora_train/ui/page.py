"""The page's root element, and the files that draw in it."""

from __future__ import annotations

import html
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]  # the extension's folder; an installed package has no page


def root(host: str, *, base: str = "", key: str | None = None) -> str:
    """What the page draws itself into.

    Args:
        host: "webui" or "standalone".
        base: what stands before our routes, where the server is not at the root of its address.
        key: the cookie to ask with; see `gate.Gate`.
    """
    given = {"id": "lora_train", "data-host": host, "data-base": base, **({"data-key": key} if key else {})}
    words = " ".join(f'{name}="{html.escape(value)}"' for name, value in given.items())
    return f"<div {words}></div>"


def assets() -> tuple[list[pathlib.Path], pathlib.Path]:
    """(scripts in the order in which a browser loads them, the style sheet)."""
    return sorted(ROOT.joinpath("javascript").glob("*.js")), ROOT / "style.css"
