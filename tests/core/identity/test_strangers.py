"""Issuers that serve anybody: whose tokens are wanted must be said."""

from __future__ import annotations

import pytest

from gateway.core.identity.strangers import wanting

GITHUB = "https://token.actions.githubusercontent.com"
GITLAB, GOOGLE = "https://gitlab.com", "https://accounts.google.com"
ENTRA = "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"


@pytest.mark.parametrize(
    ("issuer", "require"),
    [
        (GITHUB, {"repository": ["my-org/*"]}),
        (GITHUB, {"repository_owner_id": ["123"]}),
        (GITHUB, {"repository_owner": ["my-org"], "ref": ["*"]}),
        (GITHUB, {"sub": ["repo:my-org/my-repo:environment:*"]}),
        (GITHUB, {"job_workflow_ref": ["my-org/ci/.github/workflows/*"]}),
        (GITHUB + "/my-enterprise", {"repository": ["my-org/app"]}),
        (GITLAB, {"project_path": ["group/*"]}),
        (GITLAB, {"sub": ["project_path:group/*"]}),
        (GOOGLE, {"email": ["robot@project.iam.gserviceaccount.com"]}),
        (GOOGLE, {"hd": ["example.com"]}),
        (ENTRA, {"oid": ["a", "b"]}),
        ("https://kubernetes.default.svc", {}),
        ("https://gitlab.example.com", {}),
        ("https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0", {}),
    ],
)
def test_who_is_named_may_come(issuer, require):
    assert wanting(issuer, require) == ()


@pytest.mark.parametrize(
    ("issuer", "require"),
    [
        (GITHUB, {}),
        (GITHUB, {"repository": ["*"]}),
        (GITHUB, {"repository": ["my-org*"]}),
        (GITHUB, {"repository": ["my-org/*", "*"]}),
        (GITHUB, {"repository_owner": ["my-org*"]}),
        (GITHUB, {"sub": ["repo:*"]}),
        (GITHUB, {"sub": ["repo:my-org*/*"]}),
        (GITHUB, {"sub": ["[r]epo:my-org/x"]}),
        (GITHUB, {"ref": ["refs/heads/main"]}),
        (GITHUB, {"actor": ["alice"]}),
        (GITHUB + "/", {}),
        (GITHUB.upper(), {}),
        (GITLAB, {"ref_protected": ["true"]}),
        (GITLAB, {"project_path": ["?roup/x"]}),
        (GOOGLE, {"email": ["*@gmail.com"]}),
        ("accounts.google.com", {}),
        (ENTRA, {}),
        ("https://login.microsoftonline.com/common/v2.0", {}),
        ("https://login.microsoftonline.com/{tenantid}/v2.0", {"roles": ["x"]}),
    ],
)
def test_what_lets_strangers_in_is_wanting(issuer, require):
    assert wanting(issuer, require)
