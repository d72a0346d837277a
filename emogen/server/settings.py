"""The settings of a server; without FastAPI and PyTorch, so that a command's help is quick."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from emogen.errors import SettingsError, require
from emogen.files import read_text
from emogen.options import setting

NO_RECOGNIZER = "none"
_KEY = re.compile(r"[0-9A-Za-z._~+/-]+=*")
_SMALLEST = {
    "max_batch_size": 1,
    "max_queue": 0,
    "most_choices": 1,
    "most_messages": 1,
    "most_characters": 1,
    "most_bytes": 1,
    "most_tokens": 1,
    "most_connections": 1,
    "most_remembered": 0,
    "requests_a_minute": 0,
}


@dataclass(frozen=True)
class ServerSettings:
    """What `emogen serve` is started with; each field is an option, with its help there."""

    checkpoint: str = setting("", "Folder of a model  [default: checkpoints/latest, the best that ships and can be loaded]")
    recognizer: str = setting("", "Folder of a classifier, or none  [default: $EMOGEN_CLASSIFIER, the one that ships]")
    policy: str = setting("none", "Policy for requests that name no emotion: none, mirror, soothe, cheer, neutral, or a file.")
    device: str = setting("cpu", "cpu, cuda or auto.")
    full_precision: bool = setting(True, "A pretrained backbone in float32: then no reply depends on those beside it.")
    host: str = setting(
        "127.0.0.1", "Address to listen on; another one than this machine's own needs keys, or --allow-unauthenticated."
    )
    port: int = setting(8000, "0 takes a free one.")
    api_key: str = dataclasses.field(
        default="",
        repr=False,
        metadata={"help": "Keys, with commas between; better in $EMOGEN_API_KEY, since other users see command lines."},
    )
    api_key_file: str = setting("", "File with a key a line.")
    allow_unauthenticated: bool = setting(False, "Let other machines in without a key.")
    cors: str = setting("", "Origins of web pages that may call, with commas between, or *.")
    requests_a_minute: int = setting(
        0, "Requests a minute for each key, or each address where there are no keys; 0 is without limit."
    )
    max_batch_size: int = setting(64, "Replies that are written at once.")
    max_queue: int = setting(256, "Replies that may wait; more are refused.")
    most_choices: int = setting(8, "Replies to one request.")
    most_messages: int = setting(256, "Messages, or texts to recognise, of one request.")
    most_characters: int = setting(20_000, "Most characters of all messages of a request.")
    most_bytes: int = setting(1_000_000, "Most bytes of a request's body.")
    most_tokens: int = setting(256, "Most tokens of a reply; a request that asks for more gets so many.")
    reply_timeout: float = setting(60.0, "Seconds that writing a reply may take.")
    body_seconds: float = setting(
        10.0, "Seconds that a client may take to send a request's head or body, or read nothing of an answer."
    )
    shutdown_timeout: float = setting(20.0, "Seconds that replies have to be finished when the server is stopped.")
    feedback: str = setting("", "Store of opinions: an SQLite file, or a database's address as SQLAlchemy writes it.")
    most_connections: int = setting(1000, "Open connections; never more than the process may have files.")
    most_remembered: int = setting(4096, "Newest replies that an opinion can name by their id alone.")
    debug: bool = setting(False, "Write errors in their own words into the log; they may hold what users say.")
    log_text: bool = setting(False, "Write what users say, and the replies, into the log.")

    def __post_init__(self) -> None:
        for name, smallest in _SMALLEST.items():
            require(getattr(self, name) >= smallest, name, getattr(self, name), f"{smallest} or more")
        for name in ("reply_timeout", "body_seconds", "shutdown_timeout"):
            require(0 < getattr(self, name) <= 86_400, name, getattr(self, name), "above 0 and at most 86400")
        require(0 <= self.port <= 65_535, "port", self.port, "between 0 and 65535")
        require(bool(self.host.strip()), "host", repr(self.host), "an address or a name, such as 127.0.0.1")
        for origin in self.origins:
            parts = urlsplit(origin)
            require(
                origin == "*" or bool(parts.scheme and parts.netloc and not parts.path), "cors", origin, "https://name, or *"
            )

    @property
    def origins(self) -> tuple[str, ...]:
        """Return those of `cors`."""
        return tuple(filter(None, (origin.strip() for origin in self.cors.split(","))))


def keys_of(settings: ServerSettings) -> tuple[str, ...]:
    """Return the keys that are let in; none lets everybody in.

    Raises:
        SettingsError: a file that cannot be read or holds none, a key with signs that no bearer token has, or none at all
            where other machines can reach the server and `open` is not set.
    """
    given = [key.strip() for key in settings.api_key.split(",")]
    if settings.api_key and not any(given):
        raise SettingsError("--api-key: holds no key, only commas or blanks; write KEY or KEY,KEY, or leave it out")
    keys = tuple(dict.fromkeys(filter(None, [*given, *_lines(settings.api_key_file)])))
    for number, key in enumerate(keys, 1):
        # What a bearer token may be made of (RFC 6750, section 2.1); so no other file is taken for one of keys.
        if not _KEY.fullmatch(key):
            raise SettingsError(f"key {number} is no key; one is made of letters, digits and - . _ ~ + /, with = at its end")
    if not keys and not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise SettingsError(
            f"--host {settings.host}: other machines could call without a key; set EMOGEN_API_KEY or --api-key-file, or let "
            "them in with --allow-unauthenticated"
        )
    return keys


def _lines(file: str) -> list[str]:
    if not file:
        return []
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SettingsError(f"--api-key-file {file}: cannot be read ({reason})") from None
    if not any(lines):
        raise SettingsError(f"--api-key-file {file}: holds no key; write one a line")
    return lines


def is_loopback(host: str) -> bool:
    """Tell whether a name or address stands for this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
