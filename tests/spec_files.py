# SPDX-License-Identifier: Apache-2.0
"""The part of the document's decoder for files: sections of frames, "Files" in docs/format.md."""

from __future__ import annotations

import struct

import spec_decoder
from spec_base import must, xxh3

MAGIC = bytes.fromhex("89 67 70 63 66 69 6c 65")
END_MAGIC = bytes.fromhex("67 70 63 66 69 6c 65 89")


def decode(file: bytes) -> bytes:
    """The contents of a file, all of which is checked."""
    contents = b""
    while file:
        must(len(file) >= 72 and file[-8:] == END_MAGIC, "end of a section")
        footer = file[-64:]
        index_bytes, n_frames, decoded_bytes, encoded_bytes, index_hash, footer_hash = (
            struct.unpack("<6Q", footer[:48])
        )
        version, reserved = struct.unpack("<II", footer[48:56])
        must(version == 1 and reserved == 0, "version")
        must(xxh3(footer[:40] + bytes(8) + footer[48:]) == footer_hash, "hash of the footer")
        must(72 + index_bytes <= encoded_bytes <= len(file), "size of a section")
        section = file[len(file) - encoded_bytes :]
        must(section[:8] == MAGIC, "start of a section")
        index = section[-64 - index_bytes : -64]
        must(xxh3(index) == index_hash, "hash of the index")
        frames = section[8 : -64 - index_bytes]
        found, heads, n = b"", b"", 0
        while frames:
            must(len(frames) >= 40, "size of a frame")
            size = int.from_bytes(frames[16:24], "little")
            must(0 < size <= len(frames), "size of a frame")
            frame, frames = frames[:size], frames[size:]
            found += spec_decoder.decode(frame).raw.tobytes()
            heads += frame[: spec_decoder.read_layout(frame).start]
            n += 1
        must((n, heads, len(found)) == (n_frames, index, decoded_bytes), "index and footer")
        contents = found + contents
        file = file[: len(file) - encoded_bytes]
    return contents
