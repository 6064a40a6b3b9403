"""Files and skills: forms of any cut and size, both generations of lists, bytes back as they were sent."""

import io
import json
import os
import random
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import anthropic
import httpx
import pytest

from gateway.lab.simulator import World
from gateway.lab.simulator.multipart import Multipart, boundary
from gateway.lab.simulator.spool import IN_MEMORY, Spool
from tests.lab.simulator.simulator_kit import Clock, background, headers, sdk_of

PROGRAM = "import typer; from gateway.lab.simulator.command import simulate; typer.run(simulate)"
SKILL = b"---\nname: my-skill\ndescription: does things\n---\nDo them.\n"
FORM = (
    b'--xyz\r\nContent-Disposition: form-data; name="note"\r\n\r\nplain\r\n'
    b'--xyz\r\ncontent-disposition: form-data; name="file"; filename="a \\"b\\".txt"\r\nContent-Type: text/x\r\n\r\n'
    b"one\r\n--xy\r\ntwo\r\n\r\n"
    b"--xyz\r\nContent-Disposition: form-data; name=\"empty\"; filename*=utf-8''%C3%A9.bin\r\n\r\n\r\n--xyz--\r\nafter"
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sim(clock):
    with background(World.grid(3, 2), clock=clock) as running:
        yield running


@pytest.fixture
def sdk(sim):
    with sdk_of(sim) as client:
        yield client


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_form_is_read_the_same_however_it_is_cut(size):
    form = Multipart(boundary('multipart/form-data; charset=x; boundary="xyz"') or b"")
    for at in range(0, len(FORM), size):
        form.feed(FORM[at : at + size])
    form.close()
    read = [(part.name, part.filename, part.mime, part.content.whole()) for part in form.parts]
    assert read == [
        ("note", None, "", b"plain"),
        ("file", 'a "b".txt', "text/x", b"one\r\n--xy\r\ntwo\r\n"),
        ("empty", "é.bin", "", b""),
    ]


@pytest.mark.parametrize(
    "data",
    [b"", FORM[:-20], b"--xyz\r\n\r\nx\r\n--xyz--", b"--xyz?", b"--xyz\r\nX: " + b"y" * 20_000, b"no form at all"],
)
def test_what_is_not_a_form_is_an_error(data):
    form = Multipart(b"xyz")

    def read() -> None:
        form.feed(data)
        form.close()

    with pytest.raises(ValueError):
        read()


@pytest.mark.parametrize("size", [0, 1, IN_MEMORY, IN_MEMORY + 1, 3 * IN_MEMORY + 5])
def test_a_spool_gives_back_what_it_was_given_to_readers_in_turns(size):
    data = random.Random(size).randbytes(size)
    spool = Spool()
    for at in range(0, size, 300_000):
        spool.write(data[at : at + 300_000])
    one, other = spool.pieces(), spool.pieces()
    pairs = list(zip(one, other, strict=True))
    assert b"".join(first for first, _ in pairs) == b"".join(second for _, second in pairs) == data
    assert (spool.size, spool.digest) == (size, sha256(data).hexdigest())


def test_a_file_goes_up_is_listed_comes_down_and_is_deleted(sim, sdk):
    content = random.Random(1).randbytes(3_000_000)
    made = sdk.files.upload(file=("dir/data.bin", content, "application/x-data"))
    assert made.id.startswith("file_01") and made.type == "file" and made.downloadable
    assert (made.filename, made.mime_type, made.size_bytes) == ("data.bin", "application/x-data", 3_000_000)
    assert sdk.files.retrieve_metadata(made.id) == made
    assert [one.id for one in sdk.files.list()] == [made.id]
    down = sdk.files.download(made.id)
    assert down.read() == content and down.headers["content-type"] == "application/x-data"
    assert sdk.files.delete(made.id).type == "file_deleted"
    with pytest.raises(anthropic.NotFoundError, match=f"File not found: {made.id}"):
        sdk.files.download(made.id)


def test_an_upload_is_recorded_by_size_and_hash_and_not_kept(sim):
    boundary_line = {"content-type": "multipart/form-data; boundary=xyz"}
    url = f"{sim.base_url}/v1/files"
    answer = httpx.post(url, content=FORM, headers=headers(sim.world.accounts[0]) | boundary_line)
    record = sim.requests[-1]
    assert answer.status_code == 200 and record.account == "sim-account-1"
    assert (record.body, record.body_size, record.body_sha256) == (None, len(FORM), sha256(FORM).hexdigest())


@pytest.mark.parametrize(
    ("kind", "data", "complaint"),
    [
        ("multipart/form-data; boundary=xyz", FORM[:-20], "ends before"),
        ("multipart/form-data; boundary=xyz", FORM.replace(b'name="file"', b'name="else"'), "file: Field required"),
        ("multipart/form-data", FORM, "content-type"),
        ("application/json", b"{}", "content-type"),
    ],
)
def test_a_bad_upload_is_refused_and_leaves_the_connection_fit_for_use(sim, kind, data, complaint):
    head = headers(sim.world.accounts[0])
    with httpx.Client(base_url=sim.base_url, headers=head) as client:
        answer = client.post("/v1/files", content=data, headers={"content-type": kind})
        assert answer.status_code == 400 and complaint in answer.json()["error"]["message"]
        assert client.get("/v1/files").json()["data"] == []
    assert sim.connection_report()["accepted"] == 1


def test_a_file_without_a_name_gets_one(sdk):
    assert sdk.files.upload(file=b"x").filename == "unnamed.bin"


def test_a_fault_cuts_a_download(sim, sdk):
    made = sdk.files.upload(file=b"x" * 1_000_000)
    sim.faults.add("cut", 300_000, path=f"/v1/files/{made.id}/content", times=1)
    url, got = f"{sim.base_url}/v1/files/{made.id}/content", b""
    with httpx.stream("GET", url, headers=headers(sim.world.accounts[0])) as answer:
        pieces = answer.iter_raw()
        with pytest.raises(httpx.RemoteProtocolError):
            for piece in pieces:
                got += piece
    assert got == b"x" * 300_000
    assert sim.requests[-1].fault == "cut" and not sim.requests[-1].completed


def test_an_upload_that_breaks_off_or_has_no_right_to_be_leaves_nothing(sim, sdk):
    head = b"POST /v1/files HTTP/1.1\r\nhost: sim\r\ncontent-type: multipart/form-data; boundary=xyz\r\n"
    with socket.create_connection(("127.0.0.1", sim.port), 10) as client:
        client.sendall(head + b"content-length: 5000000\r\n\r\n" + FORM[:-20] + b"x" * 2_000_000)
    kind = {"content-type": "multipart/form-data; boundary=xyz", "x-api-key": "wrong"}
    assert httpx.post(f"{sim.base_url}/v1/files", content=FORM, headers=kind).status_code == 401
    assert list(sdk.files.list()) == []
    assert [record.status for record in sim.requests] == [401, 200]


def test_too_large_a_file_is_a_413(sim, sdk):
    sim.configure(max_file=10_000)
    with pytest.raises(anthropic.RequestTooLargeError):
        sdk.files.upload(file=b"x" * 10_001)
    assert sdk.files.upload(file=b"x" * 10_000).size_bytes == 10_000


def test_a_file_expires_when_it_was_told_to(sim, sdk, clock):
    made = sdk.files.upload(file=("a.txt", b"a"), expires_in_seconds=3600)
    assert made.expires_at is not None and made.mime_type == "text/plain"
    clock.now += 3600
    with pytest.raises(anthropic.NotFoundError):
        sdk.files.retrieve_metadata(made.id)
    with pytest.raises(anthropic.BadRequestError):
        sdk.files.upload(file=b"a", expires_in_seconds=1)


def test_files_are_paged_by_cursor_and_under_the_old_beta_by_id(sim, sdk):
    ids = [sdk.files.upload(file=(f"{index}.txt", b"x")).id for index in range(5)]
    assert [one.id for one in sdk.files.list(limit=2)] == ids[::-1]
    first = sdk.files.list(limit=2)
    assert first.next_page is not None and first.next_page.startswith("page_")

    beta = {"anthropic-beta": "x,files-api-2025-04-14"}
    head = headers(sim.world.accounts[0]) | beta
    old = httpx.get(f"{sim.base_url}/v1/files?limit=2&after_id={ids[4]}", headers=head).json()
    assert [one["id"] for one in old["data"]] == [ids[3], ids[2]]
    assert (old["has_more"], old["first_id"], old["last_id"]) == (True, ids[3], ids[2]) and "next_page" not in old

    for version in ("2023-06-01", "2026-10-21"):
        plain = headers(sim.world.accounts[0]) | {"anthropic-version": version}
        shape = httpx.get(f"{sim.base_url}/v1/files", headers=plain).json()
        assert shape.keys() == {"data", "next_page"} and shape["next_page"] is None
        assert "has_more" in httpx.get(f"{sim.base_url}/v1/files", headers=plain | beta).json()


def test_ids_filter_a_list_and_leave_out_what_is_not_there(sim, sdk):
    ids = [sdk.files.upload(file=b"x").id for _ in range(3)]
    with sdk_of(sim, 1) as foreign:
        other = foreign.files.upload(file=b"x").id
    assert {one.id for one in sdk.files.list(ids=[ids[0], ids[2], other, "file_none"])} == {ids[0], ids[2]}


def test_a_cursor_of_another_workspace_is_invalid(sim, sdk):
    for _ in range(2):
        sdk.files.upload(file=b"x")
    page = sdk.files.list(limit=1).next_page
    with sdk_of(sim, 1) as foreign, pytest.raises(anthropic.BadRequestError):
        foreign.files.list(page=page)


def skill_files(name: str = "my-skill") -> list[tuple[str, bytes]]:
    return [(f"{name}/SKILL.md", SKILL.replace(b"my-skill", name.encode())), (f"{name}/run.py", b"print()\n")]


def test_a_skill_has_versions_that_come_down_as_an_archive(sdk):
    made = sdk.skills.create(files=skill_files(), display_name="Mine")
    assert made.id.startswith("skill_01") and made.display_name == "Mine" and made.source.type == "custom"
    second = sdk.skills.versions.create(made.id, files=skill_files())
    assert second.name == "my-skill" and second.description == "does things"
    assert sdk.skills.retrieve(made.id).latest_version_id == second.id
    assert [one.id for one in sdk.skills.versions.list(made.id)] == [second.id, made.latest_version_id]
    assert sdk.skills.versions.retrieve("latest", skill_id=made.id).id == second.id
    packed = sdk.beta.skills.versions.download(second.id, skill_id=made.id).read()
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == dict(skill_files())
    assert sdk.skills.versions.delete(second.id, skill_id=made.id).type == "skill_version_deleted"
    assert [one.id for one in sdk.skills.list()] == [made.id]
    assert sdk.skills.delete(made.id).type == "skill_deleted"
    with pytest.raises(anthropic.NotFoundError):
        sdk.skills.retrieve(made.id)


def test_old_clients_see_skills_in_their_shape_and_name_versions_by_number(sim, sdk):
    made = sdk.skills.create(files=skill_files())
    head = headers(sim.world.accounts[0], anthropic_beta="skills-2025-10-02")
    page = httpx.get(f"{sim.base_url}/v1/skills", headers=head).json()
    assert page["has_more"] is False and page["data"][0]["display_title"] == "my-skill"
    number = page["data"][0]["latest_version"]
    version = httpx.get(f"{sim.base_url}/v1/skills/{made.id}/versions/{number}", headers=head).json()
    assert (version["version"], version["directory"]) == (number, "my-skill")


def test_a_skill_without_its_page_is_refused(sdk):
    with pytest.raises(anthropic.BadRequestError, match=r"SKILL\.md"):
        sdk.skills.create(files=[("a/b/SKILL.md", SKILL)])


def test_files_and_skills_of_another_workspace_are_unknown(sim, sdk):
    file, skill = sdk.files.upload(file=b"x"), sdk.skills.create(files=skill_files())
    with sdk_of(sim, 1) as foreign, sdk_of(sim, 2) as sibling:
        assert sibling.files.download(file.id).read() == b"x" and sibling.skills.retrieve(skill.id).id == skill.id
        assert list(foreign.files.list()) == [] and list(foreign.skills.list()) == []
        for ask in (
            lambda: foreign.files.retrieve_metadata(file.id),
            lambda: foreign.files.download(file.id),
            lambda: foreign.files.delete(file.id),
            lambda: foreign.skills.retrieve(skill.id),
            lambda: foreign.skills.delete(skill.id),
            lambda: foreign.skills.versions.list(skill.id),
            lambda: foreign.skills.versions.create(skill.id, files=skill_files()),
            lambda: foreign.skills.versions.retrieve("latest", skill_id=skill.id),
        ):
            with pytest.raises(anthropic.NotFoundError):
                ask()
    assert sdk.files.download(file.id).read() == b"x"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_hundred_megabytes_up_and_down_cost_the_simulator_little_memory():
    ready = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--listen", "127.0.0.1:0", "--json", "--batch-results-bytes", "100000000"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert ready.stdout is not None
        said = json.loads(ready.stdout.readline())
        key = said["accounts"][0]["api_key"]
        piece = os.urandom(1 << 20)

        def most() -> int:
            """The most memory that the process ever had, in bytes."""
            status = Path(f"/proc/{ready.pid}/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024

        def form() -> Iterator[bytes]:
            yield b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
            for _ in range(100):
                yield piece
            yield b"\r\n--xyz--\r\n"

        wanted = sha256()
        for _ in range(100):
            wanted.update(piece)
        head = {"x-api-key": key, "anthropic-version": "2026-10-21"}
        with httpx.Client(base_url=said["base_url"], headers=head, timeout=60) as client:
            client.get("/v1/files")
            before = most()
            kind = {"content-type": "multipart/form-data; boundary=xyz"}
            made = client.post("/v1/files", content=form(), headers=kind).json()
            assert made["size_bytes"] == 100 << 20
            got = sha256()
            with client.stream("GET", f"/v1/files/{made['id']}/content") as answer:
                for data in answer.iter_raw():
                    got.update(data)
            assert got.digest() == wanted.digest()

            asked = {"model": "claude-haiku-4-5", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
            batch = client.post("/v1/messages/batches", json={"requests": [{"custom_id": "a", "params": asked}]}).json()
            size = 0
            with client.stream("GET", f"/v1/messages/batches/{batch['id']}/results") as answer:
                for data in answer.iter_raw():
                    size += len(data)
            assert size >= 100_000_000
            assert client.delete(f"/v1/files/{made['id']}").status_code == 200
            assert most() - before < 24 << 20
    finally:
        ready.terminate()
        ready.communicate(timeout=10)
