"""A workload with a token file of its own and the Python SDK: first by environment alone, then with a provider that
reads the file. After each call it waits for a line: meanwhile the file is rotated."""

import json
import os
import time
from pathlib import Path

import anthropic
from anthropic.lib.credentials import AccessToken


def call(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="claude-haiku-4-5", max_tokens=64, messages=[{"role": "user", "content": "Hello"}]
    )
    print(json.dumps({"stop_reason": answer.stop_reason}), flush=True)
    input()


def own_token(*, force_refresh: bool = False) -> AccessToken:
    token = Path(os.environ["ANTHROPIC_IDENTITY_TOKEN_FILE"]).read_text().strip()
    return AccessToken(token=token, expires_at=int(time.time()))  # so that it is read each time


federated = anthropic.Anthropic(max_retries=1)
call(federated)
call(federated)
direct = anthropic.Anthropic(credentials=own_token, max_retries=0)
call(direct)
call(direct)
