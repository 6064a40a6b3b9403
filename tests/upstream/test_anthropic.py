"""What goes to Anthropic: the client's own bytes, and the account's key in the form the endpoint wants."""

from __future__ import annotations

import pytest

from gateway.upstream.anthropic import Anthropic
from gateway.upstream.provider import Call
from gateway.worker.head import AnswerHead
from tests.upstream.offer import Offer


def test_the_key_goes_out_as_x_api_key():
    sent = Anthropic("sk-1").prepare(Call(b"POST", b"/v1/messages", [b"user-agent: a\r\n"], b"{}"))
    assert (sent.method, sent.path, sent.body) == (b"POST", b"/v1/messages", b"{}")
    assert sent.headers == b"user-agent: a\r\nx-api-key: sk-1\r\n"


def test_the_key_goes_out_as_a_bearer_token_and_in_no_other_form_where_that_is_wanted():
    sent = Anthropic("sk-1").prepare(Call(b"POST", b"/v1/chat/completions", [b"x-a: 1\r\n"], b"{}", bearer=True))
    assert sent.headers == b"x-a: 1\r\nauthorization: Bearer sk-1\r\n"


def test_a_version_is_added_where_the_client_named_none():
    sent = Anthropic("sk-1").prepare(Call(b"GET", b"/", [], b"", version=False))
    assert sent.headers == b"x-api-key: sk-1\r\nanthropic-version: 2023-06-01\r\n"


def test_an_upload_is_handed_on_unread():
    offer = Offer(b"hello")
    assert Anthropic("sk-1").prepare(Call(b"POST", b"/v1/files", [], offer)).body is offer
    assert not offer.begun


@pytest.mark.parametrize(("key", "hidden"), [("e", False), ("sk-echo", False), ("key-of-a", True)])
def test_a_key_hides_words_of_answers_unless_it_is_too_short_to_be_one(key: str, hidden: bool):
    provider = Anthropic(key)
    body = b'{"type":"error","error":{"type":"conflict_error","message":"bad key %b"}}' % key.encode()
    refusal = provider.refusal(409, [], body, "req_1")
    assert (refusal.body == body.replace(key.encode(), b"[the account's key]")) is hidden
    assert (refusal.body == body) is not hidden
    head = AnswerHead([(b"x-echo", b"key=%b;" % key.encode())], provider.secret.encode())
    assert bool(head.visible) is not hidden
