# SPDX-License-Identifier: Apache-2.0
"""A local S3 server for tests: moto's, in a thread, with a bucket."""

from __future__ import annotations

import pytest

BUCKET = "tensors"


@pytest.fixture(scope="session")
def s3_options():
    """Options of s3fs for the server, and for no other machine."""
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install 'gpucodec[test-fs]'")
    server = pytest.importorskip("moto.server", reason="needs moto: 'gpucodec[test-fs]'")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    options = {
        "endpoint_url": f"http://{host}:{port}",
        "key": "test",
        "secret": "test",
        "use_listings_cache": False,
    }
    s3fs.S3FileSystem(**options).makedirs(BUCKET, exist_ok=True)
    yield options
    running.stop()
