"""What the layers below aiobotocore raise, and what an operator is told of it."""

from __future__ import annotations

import errno
import os

import pytest
from botocore.exceptions import EndpointConnectionError

from kbackupd.model.errors import StoreUnavailableError
from kbackupd.store.s3_errors import translate


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_connection_for_which_there_was_no_descriptor_says_so_and_not_that_the_server_is_down(number: int) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as cause:
            raise EndpointConnectionError(endpoint_url="http://s3/bucket", error=cause) from cause
    except EndpointConnectionError as error:
        told = translate(error, operation="put", key="a", location="s3://bucket")
    assert isinstance(told, StoreUnavailableError)
    assert "put a in s3://bucket: Too many open files" in str(told)
    assert "LimitNOFILE" in told.hint
    assert told.cause == "descriptors"


def test_a_file_that_could_not_be_opened_for_want_of_a_descriptor_is_no_wrong_address() -> None:
    told = translate(
        OSError(errno.EMFILE, os.strerror(errno.EMFILE), "endpoints.json"), operation="open", key="", location="s3://b"
    )
    assert "Too many open files" in str(told)
    assert "LimitNOFILE" in told.hint


def test_a_refused_connection_still_asks_for_the_endpoint() -> None:
    try:
        raise EndpointConnectionError(endpoint_url="http://s3/b", error="refused") from ConnectionRefusedError(
            errno.ECONNREFUSED, "refused"
        )
    except EndpointConnectionError as error:
        told = translate(error, operation="put", key="a", location="s3://b")
    assert "is the endpoint right" in told.hint
