import json

import pytest

from gateway.listen.addresses import Addresses
from gateway.worker.objects.rewriting import created_ids, results_to

BASE = b"https://llm.acme.test/claude"


def test_the_address_of_results_leads_to_the_gateway_and_nothing_else_changes():
    body = (
        b'{ "id" : "msgbatch_1", "results_url" : '
        b'"https:\\/\\/api.anthropic.com/v1/messages/batches/msgbatch_1/results", "x": 1.0 }'
    )
    assert results_to(body, BASE) == (
        b'{ "id" : "msgbatch_1", "results_url" : '
        b'"https://llm.acme.test/claude/v1/messages/batches/msgbatch_1/results", "x": 1.0 }'
    )


def test_the_prefix_of_an_accounts_address_goes_with_its_host():
    body = b'{"results_url":"https://proxy.test/deep/prefix/v1/messages/batches/b/results?x=1"}'
    assert json.loads(results_to(body, b"http://here"))["results_url"] == "http://here/v1/messages/batches/b/results"


@pytest.mark.parametrize(
    "body", [b'{"results_url":null}', b'{"id":"x"}', b"", b'{"text":"\\"results_url\\": \\"http://x\\""}']
)
def test_what_is_no_address_stays(body: bytes):
    assert results_to(body, BASE) == body


def test_every_batch_of_a_list_is_put_right():
    body = json.dumps({"data": [{"results_url": f"https://a.test/v1/{n}"} for n in range(3)]}).encode()
    assert [each["results_url"] for each in json.loads(results_to(body, b"http://b"))["data"]] == [
        f"http://b/v1/{n}" for n in range(3)
    ]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"id":"file_1","x":[]}', ["file_1"]),
        (b'{"id":"drun_1","session_id":"sesn_1"}', ["drun_1", "sesn_1"]),
        (b'{"id":"drun_1","session_id":null}', ["drun_1"]),
        (b'{"id":1}', []),
        (b"[]", []),
        (b"", []),
        (b'{"error":{"id":"x"}}', []),
    ],
)
def test_what_was_created_is_named_at_the_top_level(body: bytes, found: list[str]):
    assert created_ids(body) == found


def scope(*headers: tuple[bytes, bytes], client: tuple[str, int] | None = ("10.1.2.3", 5)) -> dict[str, object]:
    return {"headers": [*headers], "client": client, "server": ("192.0.2.1", 8080), "scheme": "http"}


FORWARDED = (
    (b"host", b"inside:8080"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"llm.acme.test, proxy"),
    (b"x-forwarded-prefix", b"/claude/"),
)


@pytest.mark.parametrize(
    ("trusted", "client", "url"),
    [
        (("10.0.0.0/8",), ("10.1.2.3", 5), b"https://llm.acme.test/claude"),
        (("10.1.2.3",), ("::ffff:10.1.2.3", 5), b"https://llm.acme.test/claude"),
        (("10.0.0.0/8",), ("11.1.2.3", 5), b"http://inside:8080"),
        (("10.0.0.0/8",), None, b"http://inside:8080"),
        (("10.0.0.0/8",), ("not an address", 5), b"http://inside:8080"),
        ((), ("10.1.2.3", 5), b"http://inside:8080"),
    ],
)
def test_forwarded_headers_are_believed_of_trusted_proxies_alone(trusted, client, url):
    assert Addresses(trusted).base_url(scope(*FORWARDED, client=client)) == url


@pytest.mark.parametrize(
    ("header", "url"),
    [
        ((b"x-forwarded-proto", b"javascript"), b"http://inside"),
        ((b"x-forwarded-host", b'evil"host/..'), b"http://192.0.2.1:8080"),
        ((b"x-forwarded-prefix", b"/../x y"), b"http://inside"),
        ((b"x-forwarded-host", b"[2001:db8::1]:443"), b"http://[2001:db8::1]:443"),
    ],
)
def test_what_is_no_host_scheme_or_prefix_is_not_taken_for_one(header, url):
    assert Addresses(("0.0.0.0/0",)).base_url(scope((b"host", b"inside"), header)) == url


def test_an_operators_address_counts_whatever_clients_say():
    assert Addresses((), "https://llm.acme.test/claude").base_url(scope()) == b"https://llm.acme.test/claude"
    trusting = Addresses(("0.0.0.0/0",), "https://llm.acme.test")
    assert trusting.base_url(scope(*FORWARDED)) == b"https://llm.acme.test"


def test_without_a_host_the_address_is_the_listeners():
    assert Addresses(()).base_url(scope()) == b"http://192.0.2.1:8080"
