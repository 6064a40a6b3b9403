import re

import pytest

from gateway.worker.endpoints import HOT, TABLE, Answer, At, Body, find, nowhere


@pytest.mark.parametrize(
    ("method", "path", "name", "at", "named"),
    [
        ("POST", b"/v1/messages", "messages", At.CONVERSATION, ""),
        ("POST", b"/v1/messages/count_tokens", "count_tokens", At.CONVERSATION, ""),
        ("POST", b"/v1/chat/completions", "chat", At.CONVERSATION, ""),
        ("GET", b"/v1/models", "models", At.HERE, ""),
        ("GET", b"/v1/models/claude-sonnet-4-5", "models", At.HERE, "claude-sonnet-4-5"),
        ("GET", b"/v1/models/us.anthropic.claude@2025:0", "models", At.HERE, "us.anthropic.claude@2025:0"),
        ("POST", b"/v1/messages/batches", "batches", At.HOME, ""),
        ("GET", b"/v1/messages/batches/msgbatch_1", "batches", At.OWNER, "msgbatch_1"),
        ("POST", b"/v1/messages/batches/msgbatch_1/cancel", "batches", At.OWNER, "msgbatch_1"),
        ("GET", b"/v1/messages/batches/msgbatch_1/results", "batch_results", At.OWNER, "msgbatch_1"),
        ("GET", b"/v1/messages/batches/msgbatch_1/of_next_month", "batches", At.OWNER, "msgbatch_1"),
        ("POST", b"/v1/files", "files", At.HOME, ""),
        ("GET", b"/v1/files/file_1/content", "files", At.OWNER, "file_1"),
        ("GET", b"/v1/skills/skill_1/versions/2/content", "skills", At.OWNER, "skill_1"),
        ("GET", b"/v1/sessions/sesn_1/threads/sthr_1/stream", "sessions", At.OWNER, "sesn_1"),
        ("POST", b"/v1/agents/agent_1", "agents", At.OWNER, "agent_1"),
        ("GET", b"/v1/environments/env_1/work/poll", "environments", At.OWNER, "env_1"),
        ("PATCH", b"/v1/of_next_month/x_1", "other", At.HOME, ""),
        ("GET", b"/v1/organizations/users", "organizations", At.REFUSED, ""),
        ("GET", b"/v1/organizations", "organizations", At.REFUSED, ""),
        ("POST", b"/v1/oauth/token", "token", At.EXCHANGE, ""),
        ("POST", b"/v1/oauth/authorize", "oauth", At.REFUSED, ""),
    ],
)
def test_a_path_leads_to_its_endpoint_and_names_its_object(method, path, name, at, named):
    match = find(path, method)
    assert match is not None
    assert (match.endpoint.name, match.endpoint.at, match.object) == (name, at, named)


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("POST", b"/v1/files", Answer.CREATED),
        ("GET", b"/v1/files", Answer.PAGE),
        ("DELETE", b"/v1/files/file_1", Answer.DELETED),
        ("GET", b"/v1/files/file_1", Answer.PLAIN),
        ("GET", b"/v1/messages/batches/msgbatch_1/results", Answer.RESULTS),
        ("POST", b"/v1/deployments/depl_1/run", Answer.CREATED),
        ("POST", b"/v1/sessions/sesn_1/events", Answer.PLAIN),
        ("POST", b"/v1/of_next_month", Answer.CREATED),
        ("POST", b"/v1/of_next_month/x_1", Answer.PLAIN),
        ("GET", b"/v1/of_next_month", Answer.PLAIN),
    ],
)
def test_what_becomes_of_the_answer_depends_on_method_and_path(method, path, answer):
    match = find(path, method)
    assert match is not None and match.endpoint.answer is answer


@pytest.mark.parametrize("path", [b"/v1/messages", b"/v1/messages/batches", b"/v1/models", b"/v1/messages/batches/x"])
def test_another_method_of_a_known_path_finds_an_endpoint_that_does_not_allow_it(path):
    match = find(path, "PUT")
    assert match is not None and match.endpoint.method not in ("", "PUT")


@pytest.mark.parametrize(
    "path",
    (
        b"/ /v1 /v1/ /v1/messages/ //v1/messages /v1//messages /V1/messages /v1/Messages /v1/messages?x /v1/%6dessages "
        b"/v1/models/ /v1/models/..%2fadmin /v1/models/a%0a /v1/./messages /v1/messages/../messages /v1/files/. "
        b"/v1/messages;x * http://host/v1/messages /v1/files/%2e%2e /v1/files/a%2Fb /v1/files/a%5cb /v1/files/a%252fb "
        b"/v1/files/a%00 /v1/files/a%7f /v1/files/a% /v1/files/a%4 /v1/files/a%zz /v1/files/%41 /v1/files/a\\b"
    ).split(),
)
def test_an_odd_spelling_leads_nowhere(path):
    assert find(path, "GET") is None
    assert path not in HOT


@pytest.mark.parametrize("path", [b"", b"/v1/models/a b", b"/v1/models/a\n", b"/v1/models/a\x00", b"/v1/messages\n"])
def test_a_path_with_white_space_or_worse_leads_nowhere(path):
    assert find(path, "GET") is None


def test_a_character_that_has_to_be_encoded_may_be():
    match = find(b"/v1/files/a%20b%C3%A9", "GET")
    assert match is not None and match.object == "a%20b%C3%A9"


def test_every_row_is_found_by_its_own_path():
    for path, rows in TABLE.items():
        spelled = path.replace("{id}", "some_1").replace("{rest}", "below/it")
        for row in rows:
            match = find(spelled.encode(), row.method or "PATCH")
            assert match is not None and match.endpoint == row, (path, row)


def test_what_is_hot_is_held_and_read_before_an_account_is_chosen():
    assert {endpoint.name for endpoint in HOT.values()} == {"messages", "count_tokens", "chat", "complete"}
    assert all(endpoint.peeks and endpoint.body is Body.HELD for endpoint in HOT.values())
    assert {endpoint.name for endpoint in HOT.values() if endpoint.metered} == {"messages", "chat", "complete"}
    assert {endpoint.name for endpoint in HOT.values() if endpoint.events} == {"messages", "chat"}


def test_names_are_fit_for_labels():
    assert all(re.fullmatch("[a-z_]+", row.name) for rows in TABLE.values() for row in rows)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/v1/messages", "must not end in /v1"),
        ("/v1/v1", "must not end in /v1"),
        ("/messages", "begins with /v1: /v1/messages"),
        ("/chat/completions", "begins with /v1: /v1/chat/completions"),
        ("/files/file_1", "begins with /v1: /v1/files/file_1"),
        ("/nothing", "Not found"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_to_change(path, says):
    assert says in nowhere(path)
