"""A `create.topic.policy` and `alter.config.policy` for a real broker: in some topics nobody may keep records for ever.

Written as a class file, because a Java runtime is all the testbed has. As Java it would be

    public class BoundedRetention implements CreateTopicPolicy, AlterConfigPolicy {
        public void validate(CreateTopicPolicy.RequestMetadata r) { check(r.topic(), r.configs()); }
        public void validate(AlterConfigPolicy.RequestMetadata r) { check(r.resource().name(), r.configs()); }
        static void check(String topic, Map configs) {
            if (topic.startsWith(POLICED) && "-1".equals(configs.get("retention.ms")))
                throw new PolicyViolationException(SAYS);
        }
        public void configure(Map configs) {}
        public void close() {}
        public static void premain(String arguments) {}
    }

Its jar is loaded as a Java agent that does nothing: that is how it gets onto the broker's class path.

Source: The Java Virtual Machine Specification, chapter 4 (version 49, the last without stack maps).
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

POLICED = "policed-"
SAYS = "retention.ms must be bounded here"

_NAME = "BoundedRetention"
_POLICY = "org/apache/kafka/server/policy/"
_CREATE, _ALTER = f"{_POLICY}CreateTopicPolicy", f"{_POLICY}AlterConfigPolicy"
_VIOLATION = "org/apache/kafka/common/errors/PolicyViolationException"
_TEXT, _MAP, _OBJECT = "java/lang/String", "java/util/Map", "java/lang/Object"
_PUBLIC, _PUBLIC_STATIC = 0x0001, 0x0009

_ALOAD_0, _ALOAD_1, _DUP, _RETURN, _ATHROW = b"\x2a", b"\x2b", b"\x59", b"\xb1", b"\xbf"
_VIRTUAL, _SPECIAL, _STATIC, _NEW = b"\xb6", b"\xb7", b"\xb8", b"\xbb"


def broker_settings(directory: Path) -> tuple[dict[str, str], str]:
    """The broker's properties and the option of its Java that enforce the policy; its jar is written to `directory`."""
    jar = directory / "policy.jar"
    with zipfile.ZipFile(jar, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\nPremain-Class: {_NAME}\n")
        file.writestr(f"{_NAME}.class", _class_file())
    keys = ("create.topic.policy.class.name", "alter.config.policy.class.name")
    return dict.fromkeys(keys, _NAME), f"-javaagent:{jar}"


class _Constants:
    """The constant pool: every entry once, numbered from 1."""

    def __init__(self) -> None:
        self._entries: dict[bytes, int] = {}

    def _index(self, entry: bytes) -> bytes:
        return struct.pack(">H", self._entries.setdefault(entry, len(self._entries) + 1))

    def utf8(self, text: str) -> bytes:
        return self._index(b"\x01" + struct.pack(">H", len(text)) + text.encode())

    def class_(self, name: str) -> bytes:
        return self._index(b"\x07" + self.utf8(name))

    def load(self, text: str) -> bytes:
        """The instruction that pushes a string."""
        return b"\x13" + self._index(b"\x08" + self.utf8(text))

    def method(self, owner: str, name: str, shape: str, *, interface: bool = False) -> bytes:
        named = self._index(b"\x0c" + self.utf8(name) + self.utf8(shape))
        return self._index((b"\x0b" if interface else b"\x0a") + self.class_(owner) + named)

    def __bytes__(self) -> bytes:
        return struct.pack(">H", len(self._entries) + 1) + b"".join(self._entries)


def _class_file() -> bytes:
    pool = _Constants()
    checked = f"(L{_TEXT};L{_MAP};)V"
    check = _STATIC + pool.method(_NAME, "check", checked)
    create, alter = f"{_CREATE}$RequestMetadata", f"{_ALTER}$RequestMetadata"
    resource = "org/apache/kafka/common/config/ConfigResource"
    topic = _VIRTUAL + pool.method(create, "topic", f"()L{_TEXT};")
    name = _VIRTUAL + pool.method(alter, "resource", f"()L{resource};")
    name += _VIRTUAL + pool.method(resource, "name", f"()L{_TEXT};")
    violation = _NEW + pool.class_(_VIOLATION) + _DUP + pool.load(SAYS)
    violation += _SPECIAL + pool.method(_VIOLATION, "<init>", f"(L{_TEXT};)V") + _ATHROW
    value = pool.load("-1") + _ALOAD_1 + pool.load("retention.ms")
    value += b"\xb9" + pool.method(_MAP, "get", f"(L{_OBJECT};)L{_OBJECT};", interface=True) + b"\x02\x00"
    value += _VIRTUAL + pool.method(_OBJECT, "equals", f"(L{_OBJECT};)Z") + _unless(violation)
    policed = _ALOAD_0 + pool.load(POLICED) + _VIRTUAL + pool.method(_TEXT, "startsWith", f"(L{_TEXT};)Z")
    policed += _unless(value + violation) + value + violation
    methods = [
        (_PUBLIC, "<init>", "()V", _ALOAD_0 + _SPECIAL + pool.method(_OBJECT, "<init>", "()V")),
        (_PUBLIC, "configure", f"(L{_MAP};)V", b""),
        (_PUBLIC, "close", "()V", b""),
        (_PUBLIC_STATIC, "premain", f"(L{_TEXT};)V", b""),
        (_PUBLIC, "validate", f"(L{create};)V", _ALOAD_1 + topic + _ALOAD_1 + _configs(pool, create) + check),
        (_PUBLIC, "validate", f"(L{alter};)V", _ALOAD_1 + name + _ALOAD_1 + _configs(pool, alter) + check),
        (_PUBLIC_STATIC, "check", checked, policed),
    ]
    body = struct.pack(">H", 0x0021) + pool.class_(_NAME) + pool.class_(_OBJECT)
    body += struct.pack(">H", 2) + pool.class_(_CREATE) + pool.class_(_ALTER) + struct.pack(">H", 0)
    body += struct.pack(">H", len(methods))
    for access, called, shape, code in methods:
        body += struct.pack(">H", access) + pool.utf8(called) + pool.utf8(shape) + b"\0\1" + _code(pool, code)
    return struct.pack(">IHH", 0xCAFEBABE, 0, 49) + bytes(pool) + body + b"\0\0"


def _configs(pool: _Constants, of: str) -> bytes:
    return _VIRTUAL + pool.method(of, "configs", f"()L{_MAP};")


def _unless(skipped: bytes) -> bytes:
    """Over `skipped` if what is on the stack is false; a branch counts from its own begin."""
    return b"\x99" + struct.pack(">h", 3 + len(skipped))


def _code(pool: _Constants, code: bytes) -> bytes:
    """An attribute for a method that ends by returning; four are enough for the stack and two for the arguments."""
    content = struct.pack(">HHI", 4, 2, len(code) + 1) + code + _RETURN + b"\0\0\0\0"
    return pool.utf8("Code") + struct.pack(">I", len(content)) + content
