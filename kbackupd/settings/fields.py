"""What a value may look like: one type per kind of text, each demanding what people forget (units, ports).

Every type takes text, as it stands in YAML or in a variable, and refuses with a sentence of ours. `Kind` names the
type in the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from kbackupd.model.errors import UsageError
from kbackupd.model.instants import NotAnInstantError, parse_instant_ms
from kbackupd.model.location import parse_location
from kbackupd.model.units import parse_duration_seconds, parse_size_bytes
from kbackupd.settings.refusal import Refusal, did_you_mean

_LONGEST = 10 * 366 * 86_400.0
_LARGEST = 1 << 50

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_GLOB = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,249}")
_TARGET = re.compile(r"[A-Za-z0-9._*-]{1,249}")
_TOPIC_ID = re.compile(r"[A-Za-z0-9_-]{22}")
_LARGEST_OFFSET = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Kind:
    """Marks a type with the word the reference uses for it."""

    name: str


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise Refusal("has no value", hint="give it one, or remove the key to take the default")
    if isinstance(value, dict | list):
        raise Refusal("must be a single value, not a section or a list")
    raise Refusal("must be text", hint="put it in quotes")


def _scalar(value: object) -> str:
    """Text, or a number or boolean that came as JSON from a variable."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return _text(value)


def _filled(value: object) -> str:
    text = _text(value)
    if not text.strip():
        raise Refusal("must not be empty")
    return text


def _flag(value: object) -> bool:
    text = _scalar(value)
    if text not in ("true", "false"):
        raise Refusal(f"{text!r} is neither true nor false")
    return text == "true"


def _whole(value: object) -> int:
    text = _scalar(value)
    if not re.fullmatch(r"\d{1,9}", text):
        raise Refusal(f"{text!r} is not a whole number")
    return int(text)


def _duration(value: object) -> float:
    return _measured(value, parse_duration_seconds, _LONGEST, "10 years")


def _duration_or_off(value: object) -> float:
    if value == "off":
        return 0.0
    if not (seconds := _duration(value)):
        raise Refusal("an interval of nothing", hint="off, for never")
    return seconds


def _size(value: object) -> int:
    return int(_measured(value, parse_size_bytes, _LARGEST, "1024TiB"))


def _measured(value: object, parse: Callable[[str], float], most: float, told: str) -> float:
    text = _scalar(value)
    try:
        amount = parse(text)
    except OverflowError:
        amount = inf
    except ValueError as error:
        raise Refusal(str(error)) from error
    if amount > most:
        raise Refusal(f"must be at most {told}")
    return amount


def _rate(value: object) -> int:
    bytes_per_second = _size(value.removesuffix("/s") if isinstance(value, str) else value)
    if bytes_per_second < 1:
        raise Refusal("a limit of nothing would stop everything", hint="remove the key for no limit")
    return bytes_per_second


def _name(value: object) -> str:
    text = _text(value)
    if not _NAME.fullmatch(text) or len(text) > 128:
        raise Refusal(
            f"{text!r} is not a name",
            hint="up to 128 of A-Z a-z 0-9 . _ - and not a dot first: it is part of object keys",
        )
    return text


def _group(value: object) -> str:
    text = _text(value)
    if text != text.strip() or len(text) > 249:
        raise Refusal("is not a group's name", hint="up to 249 characters without blanks around them, or off")
    return "" if text == "off" else text


def _host_port(value: object) -> str:
    text = _text(value)
    split_host_port(text)
    return text


def split_host_port(text: str) -> tuple[str, int]:
    """`"[::1]:9092"` → `("::1", 9092)`. Raises Refusal."""
    if "@" in text:
        raise Refusal("must be host:port without a user", hint="credentials go into security.sasl")
    match = _HOST_PORT.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise Refusal(f"{text!r} is not host:port", hint="such as kafka-1:9092, 0.0.0.0:9464 or [::1]:9092")
    host = match["host"]
    if host.startswith("["):
        host = host[1:-1]
    if ":" in host or re.fullmatch(r"[\d.]+", host):
        try:
            ip_address(host)
        except ValueError:
            raise Refusal(f"{text!r} is not host:port: the address is not valid") from None
    return host, int(match["port"])


def _broker(value: object) -> str:
    text = _host_port(value)
    if split_host_port(text)[1] == 0:
        raise Refusal(f"{text!r} has no port to connect to", hint="Kafka usually listens on 9092 or 9093")
    return text


def check_bucket(text: str) -> str:
    """S3's bucket naming rules (docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html)."""
    hint = "3 to 63 of a-z 0-9 . - beginning and ending with a letter or digit"
    if "/" in text or ":" in text:
        hint = "the name alone; what follows the bucket goes into prefix"
    elif _BUCKET.fullmatch(text) and ".." not in text and not re.fullmatch(r"\d+\.\d+\.\d+\.\d+", text):
        return text
    raise Refusal(f"{text!r} is not a bucket name", hint=hint)


def check_prefix(text: str) -> str:
    """A key prefix without slashes around it, of plain path components."""
    prefix = text.strip("/")
    if prefix and not all(
        re.fullmatch(r"[A-Za-z0-9!_.*'()=@+ -]+", part) and part.strip(".") for part in prefix.split("/")
    ):
        raise Refusal(f"{text!r} is not a key prefix", hint="names joined by single slashes, such as production/kafka")
    return prefix


def check_absolute(text: str) -> Path:
    if "://" in text:
        raise Refusal(f"{text!r} is a URL, not a path", hint="write the path alone, such as /var/lib/kbackupd")
    path = Path(text)
    if not path.is_absolute():
        raise Refusal(
            f"{text!r} is not an absolute path", hint="a service does not run in your directory: begin with /"
        )
    return path


def _endpoint(value: object) -> str:
    text = _text(value)
    if not text:
        return text
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise Refusal("is not a URL", hint="such as https://s3.example.com:9000")
    if "@" in text or url.query or url.fragment or url.path.strip("/"):
        raise Refusal("must be scheme, host and port alone", hint="keys go into access_key_id and secret_access_key")
    return text.rstrip("/")


def _location(value: object) -> str:
    text = _filled(value)
    try:
        parse_location(text, {})
    except UsageError as error:
        raise Refusal(error.message, hint=error.hint) from error
    return text


def _matching(pattern: re.Pattern[str], what: str, hint: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = _text(value)
        if not pattern.fullmatch(text) or text in (".", ".."):
            raise Refusal(f"{text!r} is not {what}", hint=hint)
        return text

    return check


def _instant(value: object) -> int:
    try:
        return parse_instant_ms(_scalar(value))
    except NotAnInstantError as error:
        raise Refusal(error.message, hint=error.hint) from error


def _offset(value: object) -> int:
    text = _scalar(value)
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or int(text) > _LARGEST_OFFSET:
        raise Refusal(f"{text!r} is not an offset")
    return int(text)


def _pattern(value: object) -> str:
    """A regular expression over bytes, still as text: `restore.cut` compiles it in the same way."""
    text = _text(value)
    try:
        re.compile(text.encode())
    except (re.error, UnicodeEncodeError, OverflowError, RecursionError) as error:
        raise Refusal(f"{text!r} is not a regular expression: {error}", hint="Python's re, matched on bytes") from error
    return text


def _listed(value: object) -> object:
    if isinstance(value, list | tuple):
        return value
    if value is None:
        raise Refusal("has no value", hint="an empty list is written []")
    raise Refusal("must be a list", hint="write [one, two], or one item per line with a dash before it")


def _some(value: tuple[object, ...]) -> tuple[object, ...]:
    if not value:
        raise Refusal("must not be empty")
    return value


def _always_on(value: bool) -> bool:
    if not value:
        raise Refusal(
            "cannot be switched off: one partition's failure never touches its neighbours",
            hint="write true or remove it",
        )
    return value


def one_of(*choices: str) -> BeforeValidator:
    """A validator for an enumeration's text."""

    def check(value: object) -> str:
        text = _text(value)
        if text not in choices:
            raise Refusal(f"{text!r} is not one of {', '.join(choices)}", hint=did_you_mean(text, choices))
        return text

    return BeforeValidator(check)


def at_least_seconds(minimum: str) -> AfterValidator:
    def check(value: float) -> float:
        if value < parse_duration_seconds(minimum):
            raise Refusal(f"must be at least {minimum}")
        return value

    return AfterValidator(check)


def off_or_at_least_seconds(minimum: str) -> AfterValidator:
    def check(value: float) -> float:
        if 0 < value < parse_duration_seconds(minimum):
            raise Refusal(f"must be at least {minimum}, or off")
        return value

    return AfterValidator(check)


def at_least_bytes(minimum: str, why: str) -> AfterValidator:
    def check(value: int) -> int:
        if value < parse_size_bytes(minimum):
            raise Refusal(f"must be at least {minimum}: {why}")
        return value

    return AfterValidator(check)


def between(low: int, high: int) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise Refusal(f"must be between {low} and {high}")
        return value

    return AfterValidator(check)


Text = Annotated[str, BeforeValidator(_text), Kind("text")]
Filled = Annotated[str, BeforeValidator(_filled), Kind("text")]
Flag = Annotated[bool, BeforeValidator(_flag), Kind("true or false")]
AlwaysOn = Annotated[Flag, AfterValidator(_always_on)]
Whole = Annotated[int, BeforeValidator(_whole), Kind("whole number")]
Duration = Annotated[float, BeforeValidator(_duration), Kind("duration")]
DurationOrOff = Annotated[float, BeforeValidator(_duration_or_off), Kind("duration or off")]
"""`off` is 0."""
Size = Annotated[int, BeforeValidator(_size), Kind("size")]
Rate = Annotated[int, BeforeValidator(_rate), Kind("size per second")]
Name = Annotated[str, BeforeValidator(_name), Kind("name")]
Group = Annotated[str, BeforeValidator(_group), Kind("group name or off")]
Listen = Annotated[str, BeforeValidator(_host_port), Kind("host:port")]
Broker = Annotated[str, BeforeValidator(_broker), Kind("host:port")]
Bucket = Annotated[str, AfterValidator(check_bucket), BeforeValidator(_text), Kind("bucket name")]
Prefix = Annotated[str, AfterValidator(check_prefix), BeforeValidator(_text), Kind("key prefix")]
Endpoint = Annotated[str, BeforeValidator(_endpoint), Kind("URL")]
AbsolutePath = Annotated[Path, BeforeValidator(lambda value: check_absolute(_filled(value))), Kind("absolute path")]
Location = Annotated[str, BeforeValidator(_location), Kind("s3:// or file:// URL")]
SecretText = Annotated[SecretStr, BeforeValidator(_filled), Kind("secret text")]
TopicName = Annotated[str, BeforeValidator(_matching(_TOPIC, "a topic name", "A-Z a-z 0-9 . _ -")), Kind("topic name")]
TopicGlob = Annotated[
    str, BeforeValidator(_matching(_GLOB, "a topic name or glob", "A-Z a-z 0-9 . _ - and * ? [ ]")), Kind("topic glob")
]
TopicTarget = Annotated[
    str,
    BeforeValidator(_matching(_TARGET, "a topic name", "A-Z a-z 0-9 . _ - and one *")),
    Kind("topic name or pattern"),
]
TopicUuid = Annotated[
    str,
    BeforeValidator(_matching(_TOPIC_ID, "a topic id", "22 characters, as kbackupd describe prints it")),
    Kind("topic id"),
]
Instant = Annotated[int | None, BeforeValidator(_instant), Kind("ISO 8601 with a zone, or epoch milliseconds")]
Offset = Annotated[int | None, BeforeValidator(_offset), Kind("offset")]
Regex = Annotated[str | None, BeforeValidator(_pattern), Kind("regular expression")]
"""As `Instant` and `Offset`, None only where the key is left out: written without a value it would widen the choice."""
TopicGlobs = Annotated[tuple[TopicGlob, ...], BeforeValidator(_listed), Kind("list of topic globs")]
PartitionNumbers = Annotated[
    tuple[Whole, ...], AfterValidator(_some), BeforeValidator(_listed), Kind("list of partition numbers")
]
SomeTopicGlobs = Annotated[TopicGlobs, AfterValidator(_some), Kind("list of topic globs")]
GroupGlobs = Annotated[tuple[Filled, ...], AfterValidator(_some), BeforeValidator(_listed), Kind("list of globs")]
Brokers = Annotated[tuple[Broker, ...], AfterValidator(_some), BeforeValidator(_listed), Kind("list of host:port")]
Listed = BeforeValidator(_listed)
