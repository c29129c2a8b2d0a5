"""A minimal S3 client: HTTP with AWS Signature Version 4, standard library only.

It shares no code with kbackupd's own store, so that set-up and tampering in tests are independent witnesses.
Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API reference.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import time
from collections.abc import Mapping
from urllib.parse import quote


class SignedClient:
    """One request per call, one connection per request; path-style addressing."""

    def __init__(
        self, *, host: str, port: int, access_key: str, secret_key: str, region: str, timeout_seconds: float
    ) -> None:
        self._host = host
        self._port = port
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._timeout_seconds = timeout_seconds

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        sign_body: bool = True,
    ) -> tuple[int, bytes]:
        """Send one signed request; returns the status and the whole body, whatever the status.

        Args:
            sign_body: False leaves the body's digest out of the signature, where hashing it would be measured too.

        Raises:
            OSError: no connection, a reset, or no answer within the timeout.
        """
        encoded_path = quote(path, safe="/-_.~")
        encoded_query = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted((query or {}).items()))
        digest = hashlib.sha256(body).hexdigest() if sign_body else "UNSIGNED-PAYLOAD"
        sent = self._sign(method, encoded_path, encoded_query, headers or {}, digest)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)
        try:
            target = f"{encoded_path}?{encoded_query}" if encoded_query else encoded_path
            connection.request(method, target, body=body, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def _sign(self, method: str, path: str, query: str, headers: Mapping[str, str], digest: str) -> dict[str, str]:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        signed = {
            **{name.lower(): value for name, value in headers.items()},
            "host": f"{self._host}:{self._port}",
            "x-amz-content-sha256": digest,
            "x-amz-date": stamp,
        }
        names = ";".join(sorted(signed))
        canonical = "\n".join(
            (method, path, query, *(f"{name}:{signed[name].strip()}" for name in sorted(signed)), "", names, digest)
        )
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        to_sign = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
        key = f"AWS4{self._secret_key}".encode()
        for part in (stamp[:8], self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope},SignedHeaders={names},Signature={signature}"
        )
        return {**signed, "authorization": authorization}
