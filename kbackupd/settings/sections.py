"""What both files share: how a section behaves, how Kafka and S3 are reached, how pydantic-settings gets its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from kbackupd.model.settings import SaslMechanism, SecurityProtocol
from kbackupd.settings.fields import AbsolutePath, Endpoint, Filled, Flag, Kind, SecretText, Text, one_of


def written(text: str) -> Any:
    """A default as the file would write it: pydantic parses it, the reference prints it."""
    return Field(default=text, validate_default=True)


class Section(BaseModel):
    """A part of a file: frozen, complete, and refusing keys it does not know (hazard 47)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)


class Root(BaseSettings):
    """A whole file, already merged with its variables; pydantic-settings' own readers are not asked.

    They ignore unknown variables, quote values in errors and know no lines, so `load` brings the one source.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    @classmethod
    def judged(cls, merged: Mapping[str, object]) -> Self:
        """Raises pydantic's ValidationError."""
        values: dict[str, Any] = {"merged": merged}
        return cls(**values)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        return (MergedSource(settings_cls, init_settings.init_kwargs["merged"]),)


class MergedSource(PydanticBaseSettingsSource):
    """The file's tree under the variables' tree, as `load` merged them."""

    def __init__(self, settings_cls: type[BaseSettings], merged: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._merged = merged

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._merged.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._merged


class SaslSection(Section):
    mechanism: Annotated[SaslMechanism, one_of(*SaslMechanism), Kind("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")]
    """How the password is proven."""
    username: Filled
    """Kafka user."""
    password: SecretText
    """Its password; better `${KAFKA_PASSWORD}` than in the file."""


class SecuritySection(Section):
    protocol: Annotated[
        SecurityProtocol, one_of(*SecurityProtocol), Kind("PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    ] = written("PLAINTEXT")
    """Kafka's `security.protocol` of the listener."""
    sasl: SaslSection | None = None
    """Credentials; with a SASL protocol, and only then."""
    ca_file: AbsolutePath | None = None
    """PEM file of the authorities that sign the brokers' certificates; default: the system's."""
    cert_file: AbsolutePath | None = None
    """PEM file of our own certificate, for mutual TLS; together with `key_file`."""
    key_file: AbsolutePath | None = None
    """PEM file of its private key."""


class S3Access(Section):
    region: Text = ""
    """Region of the bucket; default: what the AWS chain says."""
    endpoint: Endpoint = ""
    """URL of an S3 server that is not AWS; default: AWS, or `AWS_ENDPOINT_URL`."""
    force_path_style: Flag = written("false")
    """Address the bucket as `endpoint/bucket`, as most servers other than AWS want it."""
    profile: Filled | None = None
    """Profile of the AWS configuration files; default: the AWS chain (variables, files, instance role)."""
    access_key_id: SecretText | None = None
    """Static key instead of the AWS chain; together with `secret_access_key`."""
    secret_access_key: SecretText | None = None
    """The secret of the static key."""
    session_token: SecretText | None = None
    """Session token of a temporary key."""
