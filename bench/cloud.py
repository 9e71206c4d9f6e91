# SPDX-License-Identifier: Apache-2.0
"""What compression saves on the way to an object store: ``python -m bench.cloud``.

A local S3 server (moto's) behind a proxy that lets only so many bytes a second through, both ways. The
same safetensors file goes up and comes down through ``s3://`` and through ``gpucodec::s3://``; and up once more
as encoded first and sent then, which shows what is gained by sending parts while the next are encoded. Needs
``pip install 'gpucodec[test-fs,bench]'``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import threading
import time
from typing import Any

import fsspec

from gpucodec.fs.encoder import encoded

from .fs import checkpoint
from .record import record

PIECE = 64 << 10
BUCKET = "bench"


class Throttle:
    """A TCP proxy to `port` of this machine that passes `rate` bytes a second each way."""

    def __init__(self, port: int, rate: float) -> None:
        self.target, self.rate, self.port = port, rate, 0
        self.passed = {"up": 0, "down": 0}
        self.free_at = {"up": 0.0, "down": 0.0}
        started = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self.thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)

        async def serve() -> None:
            server = await asyncio.start_server(self._connect, "127.0.0.1", 0, limit=4 * PIECE)
            self.port = server.sockets[0].getsockname()[1]
            started.set()

        self.loop.create_task(serve())
        self.loop.run_forever()

    async def _connect(self, reader: Any, writer: Any) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(
            self._pass("up", reader, inner_writer), self._pass("down", inner_reader, writer)
        )

    async def _pass(self, way: str, reader: Any, writer: Any) -> None:
        """Each piece waits its turn on the line, whichever connection it came by."""
        try:
            while piece := await reader.read(PIECE):
                now = self.loop.time()
                begin = max(now, self.free_at[way])
                self.free_at[way] = begin + len(piece) / self.rate
                self.passed[way] += len(piece)
                await asyncio.sleep(self.free_at[way] - now)
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=128, help="of the file")
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 30, 100], help="MB/s")
    options = parser.parse_args()
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    data = checkpoint(options.mib)
    warm = fsspec.filesystem("gpucodec", target_protocol="memory")
    warm.pipe_file("/warm", data[: 4 << 20])  # compiles the kernels
    warm.cat_file("/warm")
    print(f"{len(data) / 1e6:.0f} MB of safetensors; MB over the line and seconds, up and down")
    for rate in options.rates:
        seconds = {}
        for kind in ("s3", "gpucodec", "in turn"):
            line = Throttle(server.get_host_and_port()[1], rate * 1e6)
            s3 = {
                "endpoint_url": f"http://127.0.0.1:{line.port}",
                "key": "test",
                "secret": "test",
                "skip_instance_cache": True,
            }
            below = fsspec.filesystem("s3", **s3)
            below.makedirs(BUCKET, exist_ok=True)
            fs = fsspec.filesystem("gpucodec", fs=below) if kind == "gpucodec" else below
            path = f"{BUCKET}/model.safetensors"
            make = encoded if kind == "in turn" else bytes
            up = timed(lambda fs=fs, path=path, make=make: fs.pipe_file(path, make(data)))
            down = timed(lambda fs=fs, path=path: fs.cat_file(path))
            seconds[kind] = up, down
            passed = " ".join(f"{n / 1e6:7.1f}" for n in line.passed.values())
            print(f"{rate:6.0f} MB/s {kind:>9}: {passed} MB  {up:6.2f} {down:6.2f} s")
            line.stop()
        plain, ours = seconds["s3"], seconds["gpucodec"]
        saved = [1 - ours[i] / plain[i] for i in range(2)]
        record("cloud", f"{rate:g} MB/s", up=saved[0], down=saved[1])
        overlap = 1 - ours[0] / seconds["in turn"][0]
        print(
            f"{'':11} saved: {saved[0]:.0%} of the time up, {saved[1]:.0%} down; "
            f"by encoding while sending: {overlap:.0%} up"
        )
    server.stop()


if __name__ == "__main__":
    main()
