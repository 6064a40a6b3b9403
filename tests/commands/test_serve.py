"""`gateway serve` before it serves; the rest is tested with whole gateways."""

from __future__ import annotations

import subprocess
import sys


def test_no_metrics_of_opentelemetry_are_loaded_which_others_still_may():
    code = (
        "import sys; from gateway.commands.serve import _unmeasured\n"
        "with _unmeasured(): import gateway.supervisor.run\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk.m')])\n"
        "import opentelemetry.sdk.metrics as metrics; print(metrics.MeterProvider.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "MeterProvider"]
