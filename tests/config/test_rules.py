"""Rules of values in configuration files and answers."""

from gateway.config.rules import instant_text


def test_instants_sort_as_text_by_time():
    times = [1_800_000_000.0, 1_800_000_000.006, 1_800_000_000.25, 1_800_000_001.0]
    assert sorted(map(instant_text, reversed(times))) == [instant_text(at) for at in times]
