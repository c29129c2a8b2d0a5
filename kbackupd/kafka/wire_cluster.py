"""The requests about the cluster as such: what we may do with it, its ACLs and its client quotas.

Sources: the message definitions (`*.json`) of Apache Kafka and the enumerations of org.apache.kafka.common.acl and
.resource; one flexible version each, Kafka 3.1 and later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kbackupd.kafka.answers import ClusterAccess, CreatedAcl, DescribedAcls, DescribedQuotas
from kbackupd.kafka.codec import EMPTY_TAGS, Reader, WireRequest, array, boolean, int8, string
from kbackupd.model.snapshots import Acl, Quota

_ANY = 1
_ALTER = 7
_DESCRIBE = 8
"""Of org.apache.kafka.common.acl.AclOperation: the bit of an authorized operation is its number."""
_UNKNOWN_OPERATIONS = -(2**31)

_RESOURCE_TYPES = {
    2: "TOPIC",
    3: "GROUP",
    4: "CLUSTER",
    5: "TRANSACTIONAL_ID",
    6: "DELEGATION_TOKEN",
    7: "USER",
}
_PATTERN_TYPES = {3: "LITERAL", 4: "PREFIXED"}
_OPERATIONS = {
    2: "ALL",
    3: "READ",
    4: "WRITE",
    5: "CREATE",
    6: "DELETE",
    7: "ALTER",
    8: "DESCRIBE",
    9: "CLUSTER_ACTION",
    10: "DESCRIBE_CONFIGS",
    11: "ALTER_CONFIGS",
    12: "IDEMPOTENT_WRITE",
    13: "CREATE_TOKENS",
    14: "DESCRIBE_TOKENS",
    15: "TWO_PHASE_COMMIT",
}
_PERMISSIONS = {2: "DENY", 3: "ALLOW"}


def _word(words: Mapping[int, str], number: int) -> str:
    return words.get(number, str(number))


def _number(words: Mapping[int, str], word: str) -> int:
    """The other way round; a number that had no word stands for itself."""
    return next((number for number, known in words.items() if known == word), None) or int(word)


@dataclass(frozen=True, slots=True, repr=False)
class DescribeClusterRequest(WireRequest[ClusterAccess]):
    API_KEY = 60
    API_VERSION = 0

    def encode(self) -> bytes:
        return boolean(True) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> ClusterAccess:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        error_code = reader.int16()
        reader.nullable_string()  # what it has to say about the error
        reader.string()  # cluster id
        reader.int32()  # controller id
        reader.array(lambda: self._broker(reader))
        operations = reader.int32()
        known = operations != _UNKNOWN_OPERATIONS
        return ClusterAccess(
            error_code=error_code,
            may_describe=known and bool(operations & 1 << _DESCRIBE),
            may_alter=known and bool(operations & 1 << _ALTER),
        )

    @staticmethod
    def _broker(reader: Reader) -> None:
        reader.int32()  # node id
        reader.string()  # host
        reader.int32()  # port
        reader.nullable_string()  # rack
        reader.skip_tags()


@dataclass(frozen=True, slots=True, repr=False)
class DescribeAclsRequest(WireRequest[DescribedAcls]):
    """All of them."""

    API_KEY = 29
    API_VERSION = 2

    def encode(self) -> bytes:
        resources = int8(_ANY) + string(None) + int8(_ANY)
        return resources + string(None) + string(None) + int8(_ANY) + int8(_ANY) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> DescribedAcls:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        error_code, detail = reader.int16(), reader.nullable_string()
        acls: list[Acl] = []
        for _ in range(reader.uvarint() - 1):
            resource_type, name = _word(_RESOURCE_TYPES, reader.int8()), reader.string()
            pattern_type = _word(_PATTERN_TYPES, reader.int8())
            for _ in range(reader.uvarint() - 1):
                principal, host = reader.string(), reader.string()
                operation, permission = _word(_OPERATIONS, reader.int8()), _word(_PERMISSIONS, reader.int8())
                reader.skip_tags()
                acls.append(Acl(resource_type, name, pattern_type, principal, host, operation, permission))
            reader.skip_tags()
        return DescribedAcls(error_code=error_code, detail=detail or "", acls=tuple(acls))


@dataclass(frozen=True, slots=True, repr=False)
class CreateAclsRequest(WireRequest[tuple[CreatedAcl, ...]]):
    """Answered in the order of `acls`; one that is there already is no error. Any broker forwards it."""

    API_KEY = 30
    API_VERSION = 2

    acls: Sequence[Acl]

    def encode(self) -> bytes:
        def creation(acl: Acl) -> bytes:
            resource = int8(_number(_RESOURCE_TYPES, acl.resource_type)) + string(acl.resource_name)
            pattern = int8(_number(_PATTERN_TYPES, acl.pattern_type))
            who = string(acl.principal) + string(acl.host)
            what = int8(_number(_OPERATIONS, acl.operation)) + int8(_number(_PERMISSIONS, acl.permission))
            return resource + pattern + who + what + EMPTY_TAGS

        return array(self.acls, creation) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> tuple[CreatedAcl, ...]:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time

        def result() -> CreatedAcl:
            error_code, detail = reader.int16(), reader.nullable_string()
            reader.skip_tags()
            return CreatedAcl(error_code=error_code, detail=detail or "")

        return reader.array(result)


@dataclass(frozen=True, slots=True, repr=False)
class DescribeQuotasRequest(WireRequest[DescribedQuotas]):
    """All of them."""

    API_KEY = 48
    API_VERSION = 1

    def encode(self) -> bytes:
        return array([], string) + boolean(False) + EMPTY_TAGS

    def decode(self, buffer: bytes, position: int) -> DescribedQuotas:
        reader = Reader(buffer, position)
        reader.int32()  # throttle time
        error_code, detail = reader.int16(), reader.nullable_string()
        quotas: list[Quota] = []
        for _ in range(reader.uvarint() - 1):
            entity: dict[str, str | None] = {}
            values: dict[str, float] = {}
            for _ in range(reader.uvarint() - 1):
                type_ = reader.string()
                entity[type_] = reader.nullable_string()
                reader.skip_tags()
            for _ in range(reader.uvarint() - 1):
                key = reader.string()
                values[key] = reader.float64()
                reader.skip_tags()
            reader.skip_tags()
            quotas.append(Quota(entity=entity, values=values))
        return DescribedQuotas(error_code=error_code, detail=detail or "", quotas=tuple(quotas))
