"""A gateway without issuers pays nothing for them."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_of_tokens_is_imported_where_no_issuer_is_configured():
    heavy = "{'joserfc', 'cryptography', 'gateway.worker.callers.tokens', 'httpx'}"
    code = f"import gateway.worker.process, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
