"""The sections that say what is logged, and where spans go."""

from __future__ import annotations

import pytest

from gateway.config import schema as config
from gateway.config.file import loads
from gateway.config.schema import ConfigError, Log, Tracing, config_warnings, decode, describe, encode

SMALL = "accounts:\n  - {id: a, api_key: sk-ant-a}\n"
ENVIRON = {"GATEWAY_ADMIN_TOKEN": "an-admin-token-of-some-length", "GATEWAY_SECRET": "0123456789abcdef0123456789abcdef"}
COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}


def problem(text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(SMALL + text, {**ENVIRON, **environ})
    return str(caught.value).removeprefix("gateway.yaml:")


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> None:
        if name.startswith("opentelemetry."):
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(config, "find_spec", find_spec)


def test_nothing_is_traced_and_everything_logged_unless_somebody_says_so():
    plain = loads(SMALL, ENVIRON)
    assert plain.tracing == Tracing(endpoint="", headers={}, sample=1)
    assert plain.log == Log(level="info", format="auto", sample=1, no_color="")


def test_the_usual_variables_are_followed():
    found = loads(SMALL, {**ENVIRON, **COLLECTOR, "NO_COLOR": "1"})
    assert found.tracing.endpoint == "http://collector:4318"
    assert found.log.no_color == "1"


def test_the_file_outranks_the_environment():
    text = SMALL + "tracing: {endpoint: https://other:4318/base}\n"
    assert loads(text, {**ENVIRON, **COLLECTOR}).tracing.endpoint == "https://other:4318/base"
    assert loads(SMALL + 'tracing: {endpoint: ""}', {**ENVIRON, **COLLECTOR}).tracing.endpoint == ""


def test_headers_of_the_collector_are_secret_and_reach_the_workers():
    text = "tracing: {endpoint: http://c:4318, headers: {authorization: 'Bearer ${TOKEN}'}}\n"
    found = loads(SMALL + text, {**ENVIRON, "TOKEN": "of-the-collector"})
    assert found.tracing.headers == {"authorization": "Bearer of-the-collector"}
    assert "of-the-collector" not in repr(found) + str(describe(found))
    assert decode(encode(found)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tracing: {endpoint: 'collector:4318'}", "3: tracing.endpoint: must begin with http:// or https://"),
        (
            "tracing: {endpoint: 'http://me:secret@c:4318'}",
            "3: tracing.endpoint: must not contain a user name or password; tracing.headers may hold a credential",
        ),
        ("tracing: {sample: 1.5}", "3: tracing.sample: must be at most 1"),
        ("tracing: {headers: {'a b': c}}", "3: tracing.headers.?: is not a valid header name"),
        ("tracing: {headers: {a: 'é'}}", "3: tracing.headers.a: must be printable ASCII"),
        ("log: {sample: -0.1}", "3: log.sample: must be at least 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message):
    assert problem(text) == message


@pytest.mark.usefixtures("without_the_extra")
def test_tracing_without_the_extra_is_an_error_that_says_what_to_install():
    words = "needs the extra otel: pip install 'conversation-gateway[otel]'"
    assert problem("tracing:\n  sample: 0.5\n  endpoint: http://c:4318\n") == f"5: tracing.endpoint: {words}"
    message = problem("", **COLLECTOR)
    assert message.startswith(f"1: tracing.endpoint: {words}") and "OTEL_EXPORTER_OTLP_ENDPOINT" in message
    assert loads(SMALL, ENVIRON).tracing.endpoint == ""
    assert loads(SMALL + 'tracing: {endpoint: ""}', {**ENVIRON, **COLLECTOR}).tracing.endpoint == ""


def test_the_port_of_another_protocol_is_warned_of():
    found = loads(SMALL, {**ENVIRON, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"})
    assert any("4317" in warning for warning in config_warnings(found))
    assert not any("tracing" in warning for warning in config_warnings(loads(SMALL, {**ENVIRON, **COLLECTOR})))
