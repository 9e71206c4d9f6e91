# SPDX-License-Identifier: Apache-2.0
"""Object stores: parts in parallel, tried again, committed together or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time

import fsspec
import numpy as np
import pytest
from gpucodec_s3 import BUCKET

from gpucodec.fs import encoder, multipart

PART = 5 << 20  # the least that S3 takes
NOISE = np.random.default_rng(0).bytes(3 * PART + 1234)


@pytest.fixture
def s3(s3_options, monkeypatch):
    """Our filesystem, with uploads in several parts; and the client below it."""
    monkeypatch.setattr(multipart, "PART_BYTES", PART)
    fs = fsspec.filesystem(
        "gpucodec", target_protocol="s3", target_options=s3_options, skip_instance_cache=True
    )
    fs.fs.connect()
    return fs, fs.fs._s3


def watched(client, monkeypatch, name, fail):
    """Calls of a method, the most at once, and `fail(number)` to raise in one of them."""
    method = getattr(client, name)
    seen = {"calls": 0, "now": 0, "most": 0}

    @functools.wraps(method)
    async def call(*args, **kwargs):
        seen["calls"] += 1
        number = seen["calls"]
        seen["now"] += 1
        seen["most"] = max(seen["most"], seen["now"])
        try:
            await asyncio.sleep(0.05)
            fail(number)
            return await method(*args, **kwargs)
        finally:
            seen["now"] -= 1

    monkeypatch.setattr(client, name, call)
    return seen


def until(holds):
    """Wait for another thread."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def slow_down(*numbers):
    from botocore.exceptions import ClientError

    def fail(number):
        if number in numbers:
            raise ClientError({"Error": {"Code": "SlowDown", "Message": "wait"}}, "UploadPart")

    return fail


def test_parts_go_in_parallel_and_are_tried_again(s3, monkeypatch):
    fs, client = s3
    seen = watched(client, monkeypatch, "upload_part", slow_down(2, 4))
    path = f"{BUCKET}/parts/file"
    with fs.open(path, "wb") as file:
        file.write(NOISE)
    assert seen["calls"] == 4 + 2
    assert seen["most"] >= 3
    assert fs.cat_file(path) == NOISE
    assert fs.cat_file(path, start=PART, end=PART + 10) == NOISE[PART : PART + 10]
    fs.rm(path)


def test_a_failed_upload_leaves_the_old_object(s3, monkeypatch):
    fs, client = s3
    path = f"{BUCKET}/failed/file"
    fs.pipe_file(path, b"old")

    def fail(number):
        if number == 2:
            raise PermissionError("no")

    with monkeypatch.context() as context:
        watched(client, context, "upload_part", fail)
        file = fs.open(path, "wb")
        file.write(NOISE)
        with pytest.raises(PermissionError):
            file.close()
    assert fs.cat_file(path) == b"old"
    assert not fs.fs.list_multipart_uploads(BUCKET)
    fs.rm(path)


def test_parts_go_while_the_file_is_written_and_nothing_appears_before_its_end(s3, monkeypatch):
    fs, client = s3
    seen = watched(client, monkeypatch, "upload_part", lambda _number: None)
    path = f"{BUCKET}/overlapped/file"
    file = fs.open(path, "wb")
    for _ in range(7):
        file.write(NOISE)
    until(lambda: seen["calls"] >= 8)  # in a thread, though nobody waits for it
    begun = seen["calls"]
    assert not fs.exists(path)
    held = len(file._sink._held) + PART * len(file._sink._under_way)
    assert held < encoder.WINDOW_BYTES + PART * (1 + multipart.WAYS)
    file.close()
    assert seen["most"] <= multipart.WAYS
    assert fs.cat_file(path) == 7 * NOISE
    fs.rm(path)
    fs.pipe_file(path, 2 * NOISE)  # more than is encoded at once
    assert seen["calls"] > begun + 4
    assert fs.cat_file(path) == 2 * NOISE
    fs.rm(path)


@pytest.mark.parametrize("mode", ["wb", "xb"])
def test_an_upload_whose_answer_got_lost_is_not_taken_for_a_failure(s3, monkeypatch, mode):
    fs, client = s3
    complete = client.complete_multipart_upload
    calls = []

    @functools.wraps(complete)
    async def once(*args, **kwargs):
        calls.append(None)
        if len(calls) == 1:
            await complete(*args, **kwargs)
            slow_down(1)(1)
        raise FileNotFoundError("no such upload")

    path = f"{BUCKET}/answer/file"
    with monkeypatch.context() as context:
        context.setattr(client, "complete_multipart_upload", once)
        with fs.open(path, mode) as file:
            file.write(NOISE)
        assert len(calls) == 2
        assert fs.cat_file(path) == NOISE
        file = fs.open(path, "wb")
        file.write(2 * NOISE)
        with pytest.raises(FileNotFoundError):  # another object there is none of ours
            file.close()
    fs.rm(path)


@pytest.mark.parametrize("way", ["exception", "forgotten", "transaction"])
def test_what_was_sent_of_a_file_that_does_not_appear_is_dropped(s3, way):
    fs, _ = s3
    path = f"{BUCKET}/dropped/file"
    fs.pipe_file(path, b"old")

    def written():
        file = fs.open(path, "wb")
        for _ in range(3):
            file.write(NOISE)
        until(lambda: fs.fs.list_multipart_uploads(BUCKET))
        return file

    if way == "exception":
        with contextlib.suppress(ZeroDivisionError), written():
            raise ZeroDivisionError
    elif way == "forgotten":
        forgotten = [written()]
        with pytest.warns(ResourceWarning):
            forgotten.clear()
    else:
        with contextlib.suppress(ZeroDivisionError), fs.transaction:
            written().close()
            raise ZeroDivisionError
    assert not fs.fs.list_multipart_uploads(BUCKET)
    assert fs.cat_file(path) == b"old"
    fs.rm(path)


def test_in_coroutines(s3_options, monkeypatch):
    monkeypatch.setattr(multipart, "PART_BYTES", PART)

    async def work():
        fs = fsspec.filesystem(
            "gpucodec",
            target_protocol="s3",
            target_options=s3_options | {"skip_instance_cache": True},
            asynchronous=True,
            skip_instance_cache=True,
        )
        path = f"{BUCKET}/coroutines/file"
        await fs._pipe_file(path, 2 * NOISE)
        assert await fs._cat_file(path) == 2 * NOISE
        with pytest.raises(FileExistsError):
            await fs._pipe_file(path, 2 * NOISE, mode="create")
        await fs._rm_file(path)
        await fs.fs._s3.close()

    asyncio.run(work())


@pytest.mark.parametrize("content", [b"small", NOISE])
def test_of_two_exclusive_writers_the_first_to_end_wins(s3, content):
    fs, _ = s3
    path = f"{BUCKET}/exclusive/file"
    first, second = fs.open(path, "xb"), fs.open(path, "xb")
    second.write(content)
    second.close()
    first.write(content[::-1])
    with pytest.raises(FileExistsError):
        first.close()
    assert fs.cat_file(path) == content
    fs.rm(path)


def test_an_object_replaced_by_others_is_noticed(s3_options):
    """Listings may be old: their sizes are not trusted against the bytes."""
    options = s3_options | {"use_listings_cache": True}
    fs = fsspec.filesystem("gpucodec", target_protocol="s3", target_options=options)
    other = fsspec.filesystem("gpucodec", target_protocol="s3", target_options=s3_options)
    path = f"{BUCKET}/replaced/file"
    other.pipe_file(path, b"one" * 1000)
    assert fs.ls(f"{BUCKET}/replaced")[0]["size"] == 3000
    other.pipe_file(path, NOISE)
    assert fs.cat_file(path) == NOISE
    other.pipe_file(path, b"three" * 1000)
    assert fs.cat_ranges([path], [0], [10]) == [b"threethree"]
    fs.rm(path)
