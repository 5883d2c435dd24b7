"""Trees of files for the tests of what reads them, as a folder and as a tar archive."""

import io
import os
import random
import tarfile


def write_tree(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def write_archive(path, files, leading=""):
    """Write the members in an arbitrary order, without entries for folders."""
    paths = list(files)
    random.Random(0).shuffle(paths)
    with tarfile.open(path, {".xz": "w:xz", ".gz": "w:gz", ".tgz": "w:gz"}.get(path.suffix, "w")) as archive:
        for name in paths:
            member = tarfile.TarInfo(leading + name)
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return path


def without(files, prefix):
    return {path: content for path, content in files.items() if not path.startswith(prefix)}


def overwrite_unnoticed(path, content):
    """Replace a file's content but keep its size and time: only the cache can now give the old one."""
    stat = path.stat()
    path.write_bytes(content.ljust(stat.st_size, b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
