"""An account without such credentials pays nothing for those of others."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "import gateway.upstream.credentials.aws, gateway.upstream.credentials.google, gateway.upstream.credentials.entra"
)


def test_no_library_of_a_cloud_is_imported_before_a_credential_is_fetched() -> None:
    heavy = "{'boto3', 'botocore', 'google', 'requests', 'httpx', 'cryptography'}"
    code = f"{MODULES}; import sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
