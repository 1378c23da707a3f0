"""Who may ask: the login of the page, the WebUI's --api-auth, and no writing from another site."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hmac
import secrets
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from starlette.requests import Request

READING = ("GET", "HEAD", "OPTIONS")
SITES = ("same-origin", "none")  # of Sec-Fetch-Site; "none": a person typed the address


@dataclasses.dataclass(frozen=True)
class Gate:
    """Open where the WebUI asks nobody; else for those who logged in to it, and for --api-auth's users.

    With --api-auth alone the page itself is open to all, and has to be able to ask as well: whoever was given
    the page holds its key, as a cookie.
    """

    login: Callable[[Request], bool] | None = None  # whether they logged in to the page; None: nobody has to
    users: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of --api-auth, with their passwords
    origins: tuple[str, ...] = ()  # other sites that the person allowed, with --cors-allow-origins
    secret: str = dataclasses.field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def key(self) -> str | None:
        """The cookie `name=value` that the page has to send; None where it needs none."""
        return f"{self._cookie}={self.secret}" if self.users and self.login is None else None

    @property
    def _cookie(self) -> str:
        return f"lora_train_{self.secret[:6]}"  # cookies of all ports of a machine lie together

    def refusal(self, request: Request) -> tuple[int, str] | None:
        """(HTTP status, sentence) for who may not; None for who may."""
        if self.users and self._basic(request.headers.get("authorization", "")):
            return None  # a browser does not send this for another site
        if self.login is not None and not self.login(request):
            return 401, "log in first: open the page and enter name and password, or send those of --api-auth"
        if self.login is None and self.users and not self._page(request):
            return 401, "expected a name and password of --api-auth, as HTTP basic authentication"
        if request.method not in READING and not self._here(request):
            return 403, "asked from another site: open the page at its own address and ask there"
        return None

    @staticmethod
    def logged_in(app: object) -> Callable[[Request], bool] | None:
        """Whether a request carries the cookie of gradio's login; None where gradio asks for none."""
        if not app.auth:
            return None
        own = getattr(app, "cookie_id", None)  # since gradio 4; before, the cookies had no number
        names = [f"access-token{part}{f'-{own}' if own else ''}" for part in ("", "-unsecure")]
        return lambda request: any(app.tokens.get(request.cookies.get(name)) for name in names)

    def _basic(self, header: str) -> bool:
        kind, _, text = header.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            name, _, password = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
        known = self.users.get(name)
        return known is not None and hmac.compare_digest(known.encode(), password.encode())

    def _page(self, request: Request) -> bool:
        return hmac.compare_digest(request.cookies.get(self._cookie, "").encode(), self.secret.encode())

    def _here(self, request: Request) -> bool:
        """Whether a page of ours asks, or no browser at all: a browser names the site on every write."""
        origin = request.headers.get("origin") or request.headers.get("referer")
        if origin and (origin.rstrip("/") in self.origins or "*" in self.origins):
            return True
        if site := request.headers.get("sec-fetch-site"):
            return site in SITES
        if not origin:
            return True
        hosts = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
        return urlsplit(origin).netloc in [host for host in hosts if host]
