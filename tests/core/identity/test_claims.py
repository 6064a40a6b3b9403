"""What claims mean: paths, patterns, texts made of them, and callers' ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.identity.claims import (
    LONGEST,
    NotAdmitted,
    caller_id,
    check_template,
    claim,
    render,
    split_path,
    unmet,
)

POD = {
    "sub": "system:serviceaccount:ml:train",
    "kubernetes.io": {"namespace": "ml", "serviceaccount": {"name": "train"}},
    "https://example.com/groups": ["a", "b"],
    "verified": True,
    "number": 7,
}


def test_a_path_leads_to_a_claim():
    assert claim(POD, "kubernetes.io/serviceaccount/name") == "train"
    assert claim(POD, "https:~1~1example.com~1groups") == ["a", "b"]
    assert claim({"a~b": 1}, "a~0b") == 1
    assert claim(POD, "sub/more") is claim(POD, "nothing") is claim(POD, "kubernetes.io/nothing/more") is None


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/", "a~", "a~2b"])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="path of a claim"):
        split_path(path)


@pytest.mark.parametrize(
    ("require", "unmet_path"),
    [
        ({}, ""),
        ({"sub": ("system:serviceaccount:ml:*",)}, ""),
        ({"sub": ("nobody", "system:serviceaccount:*:train")}, ""),
        ({"kubernetes.io/namespace": ("ml",), "sub": ("*",)}, ""),
        ({"https:~1~1example.com~1groups": ("b",)}, ""),
        ({"verified": ("true",), "number": ("7",)}, ""),
        ({"sub": ("system:serviceaccount:ML:*",)}, "sub"),
        ({"sub": ("system:serviceaccount:ml",)}, "sub"),
        ({"sub": ("*",), "kubernetes.io/namespace": ("web",)}, "kubernetes.io/namespace"),
        ({"nothing": ("*",)}, "nothing"),
        ({"kubernetes.io": ("*",)}, "kubernetes.io"),
        ({"https:~1~1example.com~1groups": ("c",)}, "https:~1~1example.com~1groups"),
    ],
)
def test_every_claim_that_is_required_must_fit_one_of_its_patterns(require, unmet_path):
    assert unmet(POD, require) == unmet_path


def test_a_text_is_made_of_claims():
    assert render("{sub}", POD) == POD["sub"]
    assert render("pods/{kubernetes.io/namespace}-{number}", POD) == "pods/ml-7"
    assert render("fixed", POD) == "fixed"


@pytest.mark.parametrize("template", ["{nothing}", "{kubernetes.io}", "{https:~1~1example.com~1groups}"])
def test_no_text_is_made_of_claims_that_are_missing_or_many(template):
    with pytest.raises(NotAdmitted, match="has no claim"):
        render(template, POD)


@pytest.mark.parametrize("template", ["{", "}", "{a", "{}", "{a}{b}", "a b {c}", "{a//b}", "{{a}}", "a\n"])
def test_texts_that_cannot_be_made_are_refused(template):
    with pytest.raises(ValueError):
        check_template(template)


@given(st.tuples(st.text("ab/-%", min_size=1), st.text("ab/-%", min_size=1)), st.data())
def test_different_claims_never_make_the_same_text(first, data):
    second = data.draw(st.tuples(st.text("ab/-%", min_size=1), st.text("ab/-%", min_size=1)))
    template = check_template(data.draw(st.sampled_from(["{a}/{b}", "x{a}-{b}", "{a}-/-{b}"])))
    one, two = (render(template, {"a": a, "b": b}) for a, b in (first, second))
    assert (one == two) == (first == second)


def test_an_id_names_its_issuer_and_what_was_made_of_the_claims():
    assert caller_id("k8s", "system:serviceaccount:ml:train") == "k8s/system:serviceaccount:ml:train"
    assert caller_id("gh", "org/repo") == "gh/org/repo"


ODD = ("x" * LONGEST, "a b", "a\nb", "ä", "{tag}", "", "sha256-" + "0" * 40, "\ud800")


@pytest.mark.parametrize("text", ODD)
def test_what_would_make_no_id_is_hashed(text):
    made = caller_id("k8s", text)
    assert made.startswith("k8s/sha256-")
    assert len(made) <= LONGEST
    assert made == caller_id("k8s", text)


def test_no_text_has_the_id_of_another_ones_hash():
    ids = {caller_id("k8s", text) for text in ODD}
    again = {caller_id("k8s", made.partition("/")[2]) for made in ids}
    assert len(ids) == len(ODD) and not ids & again
