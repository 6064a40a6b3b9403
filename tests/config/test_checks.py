"""What single values must look like: the URLs of the store, in all their forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.checks import RedisUrl, parse_redis, redis_url, without_password


@pytest.mark.parametrize(
    "url",
    [
        "redis://host", "redis://host:6379/0", "valkey://user:p%40ss@host:1/2", "rediss://[::1]:6380/0?ssl_cert_reqs=none",
        "valkeys://h", "unix:///run/valkey.sock", "unix://:password@/run/valkey.sock?db=3",
    ],
)  # fmt: skip
def test_one_server_is_named_as_redis_py_names_it(url):
    assert parse_redis(url) == RedisUrl("", url)
    assert redis_url(url) == url


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("redis+sentinel://h/m", RedisUrl("sentinel", "redis://master/?", (("h", 26379),), "m")),
        (
            "valkey+sentinel://u:p%40@a:1,b,[::1],[fe80::2]:7/my%2Fmaster/3",
            RedisUrl(
                "sentinel",
                "valkey://u:p%40@master/3?",
                (("a", 1), ("b", 26379), ("::1", 26379), ("fe80::2", 7)),
                "my/master",
            ),
        ),
        (
            "rediss+sentinel://h:1/m/0?sentinel_password=s%20p&ssl_ca_certs=/a%20b.pem&sentinel_username=u",
            RedisUrl("sentinel", "rediss://master/0?ssl_ca_certs=%2Fa+b.pem", (("h", 1),), "m", "u", "s p"),
        ),
        ("redis+cluster://a:7000,b", RedisUrl("cluster", "redis://cluster/?", (("a", 7000), ("b", 6379)))),
        ("valkeys+cluster://:pw@a/0", RedisUrl("cluster", "valkeys://:pw@cluster/?", (("a", 6379),))),
    ],
)
def test_several_servers_are_named_one_after_the_other(url, parsed):
    assert parse_redis(url) == parsed


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h", "must be a URL such as redis://"),
        ("h:6379", "must be a URL such as redis://"),
        ("redis+other://h", "must be a URL such as redis://"),
        ("unix+cluster:///s", "must be a URL such as redis://"),
        ("redis://h/0 ", "must not contain spaces"),
        ("redis://", "has no host"),
        ("redis://:pw@/0", "has no host"),
        ("redis+cluster://a,,b", "has no host"),
        ("redis+sentinel:///m", "has no host"),
        ("redis://h:0", "has a port that is no number from 1 to 65535"),
        ("redis://h:65536", "has a port"),
        ("redis+cluster://a:1,b:x", "has a port"),
        ("redis+sentinel://a:1,b:/m", "has a port"),
        ("redis+cluster://[::g]:1", "has a host that is none"),
        ("redis://[1:2]/0", "is not a valid URL"),
        ("redis://a,b", "has several hosts; they need redis+sentinel:// or redis+cluster://"),
        ("redis://h/x", "has a database that is no number"),
        ("redis://h?db=x", "has a database"),
        ("unix:///s?db=x", "has a database that is no number"),
        ("redis://h?sentinel_password=x", "has an option that belongs to redis+sentinel://"),
        ("redis+sentinel://h/m/x", "has a database"),
        ("unix://", "has no path of a socket"),
        ("redis+sentinel://h", "lacks the master's name"),
        ("redis+sentinel://h/", "lacks the master's name"),
        ("redis+cluster://h/1", "names a database; a cluster has only one"),
        ("redis+cluster://h/m", "names a database"),
        ("redis+cluster://h?db=0", "has an unknown option; known here: ssl_ca_certs,"),
        ("redis+cluster://h?sentinel_password=x", "has an unknown option"),
        ("redis+sentinel://h/m?password=x", "has an unknown option; known here: sentinel_username, sentinel_password"),
    ],
)
def test_a_wrong_url_of_the_store_is_told_in_one_line(url, words):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
        redis_url(url)
    assert str(raised.value).startswith(words)


@given(
    st.sampled_from(["redis", "valkeys+sentinel", "rediss+cluster", "unix", "x"]),
    st.text("hush:@/?#[],% \u00fc1", max_size=20),
)
def test_any_text_is_a_url_or_an_error_that_does_not_repeat_it(scheme, rest):
    told = ""
    try:
        parse_redis(f"{scheme}://hush{rest}")
    except ValueError as error:
        told = str(error)
    assert "hush" not in told


def test_passwords_are_hidden_in_all_forms():
    shown = without_password("redis+sentinel://u:hush@a:1,b:2/m/0?sentinel_password=hush&ssl_cert_reqs=none")
    assert shown == "redis+sentinel://u:***@a:1,b:2/m/0?sentinel_password=***&ssl_cert_reqs=none"
