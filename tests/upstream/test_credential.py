"""The credential port: one that is fixed gives its line for every attempt and has nothing to fetch."""

import pytest

from gateway.upstream.credential import Credential, Fixed, NotReady
from gateway.upstream.transport import NotSent


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("x-api-key", "sk-1", b"x-api-key: sk-1\r\n"),
        ("api-key", "azure", b"api-key: azure\r\n"),
        ("authorization", "Bearer t", b"authorization: Bearer t\r\n"),
    ],
)
async def test_a_fixed_credential_gives_the_same_line_for_every_attempt(name: str, value: str, line: bytes) -> None:
    credential: Credential = Fixed(name, value)
    await credential.start()
    assert credential.lines(b"POST", b"host", b"/v1/messages", b"{}") == line
    assert credential.lines(b"GET", b"other", b"/", b"") == line
    assert not await credential.refresh(), "nothing changes by asking again"
    assert credential.expires_at is None and credential.trouble == ""
    await credential.close()


def test_a_request_without_a_credential_was_not_sent() -> None:
    assert issubclass(NotReady, NotSent)
