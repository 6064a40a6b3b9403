"""Rules of values in configuration files and answers."""

import pytest

from gateway.config.rules import Reader, Text, instant_text
from gateway.config.source import Node, Problem


def test_instants_sort_as_text_by_time():
    times = [1_800_000_000.0, 1_800_000_000.006, 1_800_000_000.25, 1_800_000_001.0]
    assert sorted(map(instant_text, reversed(times))) == [instant_text(at) for at in times]


@pytest.mark.parametrize("lines", [False, True])
def test_only_text_of_lines_may_be_a_file_that_has_several(lines, tmp_path):
    key = '{\n\t"private_key": "-----BEGIN\\n"\r\n}'
    (tmp_path / "key.json").write_bytes(key.encode() + b"\n")
    problems: list[Problem] = []
    node = Node(1, f"${{file:{tmp_path}/key.json}}")
    value = Text(lines=lines, secret=True).read(Reader({}, problems), node, "credentials")
    assert (value == key) is lines
    assert [problem.message.partition(" (")[0] for problem in problems] == ["contains a control character"] * (
        not lines
    )
