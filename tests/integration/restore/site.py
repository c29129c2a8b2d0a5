"""A restore by the command itself: an archive in a real bucket, a target, and what a refusal must look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from kbackupd.testbed.daemon import Finished, Json, Section, kbackupd_environment, run_kbackupd
from kbackupd.testbed.s3 import S3Server
from tests.integration.restore.picky_kafka import PickyKafka, topic_state

DENIED, REFUSED, INCOMPLETE = 4, 5, 6


@dataclass(frozen=True, kw_only=True)
class Site:
    """An archive in the bucket, and a target to restore it into."""

    bootstrap: str
    s3: S3Server
    bucket: str
    prefix: str
    directory: Path
    login: Section | None = None

    def as_(self, user: str, password: str, picky: PickyKafka) -> Site:
        sasl: Section = {"mechanism": "PLAIN", "username": user, "password": password}
        return replace(self, bootstrap=picky.guarded.bootstrap, login={"protocol": "SASL_PLAINTEXT", "sasl": sasl})

    def restore(self, mapping: Mapping[str, str], *arguments: str, **options: Json) -> Finished:
        """Run the command: topics of the archive under these names."""
        config = str(self.written(mapping, **options))
        environment = kbackupd_environment(self.s3)
        return run_kbackupd(self.directory, "restore", "--config", config, *arguments, environment=environment)

    def written(self, mapping: Mapping[str, str], **options: Json) -> Path:
        """The configuration file."""
        include: list[Json] = list(mapping)
        section: Section = {
            "source": {"path": f"s3://{self.bucket}/{self.prefix}", "backup_id": "main"},
            "target": {"bootstrap_servers": [self.bootstrap], **({"security": self.login} if self.login else {})},
            "options": {
                "topics": {"include": include},
                "topic_mapping": [{"source": source, "target": target} for source, target in mapping.items()],
                **options,
            },
        }
        config = self.directory / "restore.yaml"
        config.write_text(yaml.safe_dump({"restore": section}))
        return config

    def written_down(self) -> dict[str, int]:
        return self.s3.list_objects(self.bucket, f"{self.prefix}/main/plans/")

    def refuses(
        self, mapping: Mapping[str, str], exit_code: int, problems: Mapping[str, str], truth: str, **options: Json
    ) -> str:
        """The restore ends with that code, tells each problem with its remedy, and leaves everything as it was.

        Args:
            truth: bootstrap server of an independent client; empty: there is nothing to look at.
        """

        def there() -> object:
            return [topic_state(truth, target) for target in mapping.values()] if truth else []

        before, known = there(), self.written_down()

        done = self.restore(mapping, **options)

        assert (done.exit_code, done.stdout) == (exit_code, ""), (done.exit_code, done.stdout, done.stderr)
        said, _, hints = done.stderr.partition("hint: ")
        assert "Traceback" not in done.stderr
        for problem, remedy in problems.items():
            assert problem in said, done.stderr
            assert remedy in hints, done.stderr
        assert there() == before
        assert self.written_down() == known
        return done.stderr
