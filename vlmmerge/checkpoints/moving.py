"""Bytes of tensors from file to file, and their checksums."""

import errno
import os
from typing import IO

from vlmmerge.checkpoints.headers import TensorInfo
from vlmmerge.errors import CheckpointError

_CHUNK = 16 * 2**20  # bytes in memory at once
_COPY = 2**30  # bytes that the kernel is asked to copy at once

# A file system, or a pair of them, that cannot copy by itself.
_CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ETXTBSY, errno.EPERM)


def copy_range(info: TensorInfo, file: IO[bytes]) -> None:
    """Append a tensor's bytes to `file` (unbuffered), by the file system itself where it can.

    With copy_file_range no byte passes through this process, and file systems that share blocks
    (btrfs, xfs) copy nothing. The source is never linked: a hub cache stays as it is.
    """
    with info.shard.open("rb", buffering=0) as source:
        start = info.start
        while start < info.end:
            try:
                copied = os.copy_file_range(
                    source.fileno(), file.fileno(), min(_COPY, info.end - start), start
                )
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                break
            if copied == 0:
                break
            start += copied
        while start < info.end:
            content = os.pread(source.fileno(), min(_CHUNK, info.end - start), start)
            _expect(content, info)
            while content:
                written = file.write(content)
                content, start = content[written:], start + written


def digest_range(info: TensorInfo) -> bytes:
    """The checksum of a tensor's bytes on disk."""
    import xxhash

    digest = xxhash.xxh3_128()
    buffer = bytearray(min(_CHUNK, info.end - info.start))
    with info.shard.open("rb", buffering=0) as file:
        start = info.start
        while start < info.end:
            part = memoryview(buffer)[: min(_CHUNK, info.end - start)]
            read = os.preadv(file.fileno(), [part], start)
            _expect(part[:read], info)
            digest.update(part[:read])
            start += read
    return digest.digest()


def _expect(content: bytes | memoryview, info: TensorInfo) -> None:
    if not content:
        raise CheckpointError(f"{info.shard}: cut short while {info.name} was read")
