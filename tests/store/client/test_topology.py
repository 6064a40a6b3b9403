"""URLs of the store say to us what they say to redis-py."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection, parse_url
from redis.crc import key_slot

from gateway.store.client.cluster import slot_of
from gateway.store.client.topology import read_url


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://store.test:7000/3",
        "redis://[::1]:7000/",
        "redis://alice:p%40ss%2Fword@store.test/0?db=4",
        "redis://:only-a-password@store.test",
        "redis://STORE.test/2",
        "rediss://store.test:6380/1?ssl_ca_certs=/etc/ca%20s.pem&ssl_cert_reqs=none",
        "rediss://store.test?ssl_check_hostname=False&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
        "rediss://store.test?ssl_check_hostname=0",
        "rediss://store.test?ssl_check_hostname=true",
        "unix:///run/a%20socket.sock",
        "unix:///run/valkey.sock?db=2&username=alice&password=p%2540ss",
        "unix://alice:secret@/run/valkey.sock",
    ],
)
def test_a_url_of_one_server_is_read_as_redis_py_reads_it(url: str):
    theirs = cast(dict[str, Any], parse_url(url))
    tls = theirs.pop("connection_class", None) is SSLConnection
    node = theirs.pop("path", None) or (theirs.pop("host", "localhost"), theirs.pop("port", 6379))
    topology = read_url(url)
    assert topology.nodes == (node,)
    assert topology.access.options == {**theirs, **({"ssl": True} if tls else {})}
    assert topology.access.db == theirs.get("db", 0)


KEYS = st.text("{}ab0", max_size=8).map(str.encode) | st.binary(max_size=20)


@given(KEYS)
def test_a_key_has_the_slot_that_redis_py_finds(key: bytes):
    assert slot_of(key) == key_slot(key)
