"""Endpoint: a model behind an OpenAI-compatible HTTP interface, asked one message at a time."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from vlmmerge import config
from vlmmerge.config import one_line
from vlmmerge.errors import ConfigError, EngineError

_LOCAL = ("localhost", "127.0.0.1", "::1")
_LARGEST = 4 * 1024 * 1024  # bytes of an answer
_DEFAULTS: Mapping[str, Any] = {"temperature": 0, "seed": 0, "max_tokens": 1024}


@dataclass(frozen=True)
class Endpoint:
    """`POST {url}/chat/completions`, as vLLM, llama.cpp, Ollama and many services answer it.

    Only an address that the command line names is asked: `trust=[http://HOST:PORT]`. `url`: up to
    where `/chat/completions` follows. `request`: further keys of every request, over temperature
    0, seed 0 and max_tokens 1024; null leaves one out. `api_key_env`: the name of the environment
    variable with the key. `timeout`: seconds for an answer. `retries`: how often a request that
    found nobody, too many others (429) or a fault (5xx) is sent again, after `pause` seconds and
    twice as long each time.
    """

    url: str
    model: str
    where: str
    api_key_env: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 120.0
    retries: int = 3
    pause: float = 1.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{self.where}.url: {self.url!r} is not an http address")
        if _origin(self.url) not in {_origin(entry) for entry in config.trusted}:
            origin = f"{parts.scheme}://{parts.netloc}"
            raise ConfigError(
                f"{self.where}.url: answers are sent to {origin} where the command line allows it:"
                f" trust=[{origin}]"
            )
        for name in ("timeout", "pause"):
            value = self.__dict__[name]
            usable = isinstance(value, int | float) and not isinstance(value, bool)
            if not usable or value < 0 or (value == 0 and name == "timeout"):
                raise ConfigError(f"{self.where}.{name}: {value!r} is no number of seconds")
        if type(self.retries) is not int or self.retries < 0:
            raise ConfigError(f"{self.where}.retries: {self.retries!r} is no whole number from 0")
        if not isinstance(self.request, Mapping):
            raise ConfigError(f"{self.where}.request: {self.request!r} is no mapping")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise ConfigError(
                f"{self.where}.api_key_env: the environment has no {self.api_key_env}"
            )

    def ask(self, prompt: str) -> str:
        """The answer to one message. Raises `EngineError` where none comes."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            **{k: v for k, v in {**_DEFAULTS, **self.request}.items() if v is not None},
        }
        return self._text(self._post(json.dumps(body, ensure_ascii=False).encode()))

    def _post(self, body: bytes) -> bytes:
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with self._opener.open(self._request(body), timeout=self.timeout) as response:
                    answer: bytes = response.read(_LARGEST)
                    return answer
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}"
                with error:
                    said = one_line(error.read(2000).decode("utf-8", "replace"))[:300]
                if error.code != 429 and error.code < 500:
                    raise EngineError(f"{self.where}: {self.url}: {reason}: {said}") from error
            except (OSError, HTTPException) as error:
                reason = one_line(error) or type(error).__name__
        raise EngineError(
            f"{self.where}: {self.url} gave no answer ({reason}, asked {self.retries + 1} times)"
        )

    def _request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.api_key_env]}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        return urllib.request.Request(address, data=body, headers=headers)  # noqa: S310

    @property
    def _opener(self) -> urllib.request.OpenerDirector:
        # No proxy stands between this machine and itself.
        local = urlsplit(self.url).hostname in _LOCAL
        proxies = urllib.request.ProxyHandler({} if local else None)
        return urllib.request.build_opener(proxies, _NoRedirects())

    def _text(self, answer: bytes) -> str:
        try:
            content = json.loads(answer)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            said = one_line(answer[:200].decode("utf-8", "replace"))
            raise EngineError(
                f"{self.where}: {self.url} does not answer as an OpenAI-compatible endpoint: {said}"
            ) from error
        return content if isinstance(content, str) else ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key goes where the command line said, and nowhere from there."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _origin(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; none where it is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
