"""A run as one file, which another clone can take up.

A zip archive:
    manifest.json     which run this is, whose code made it, and size and sha256 of each file
    params.yaml       the parameters of the whole pipeline as they were
    dvc.lock          DVC's record of the stage that made the results, and of all before it
    run/              the run directory: config.json, metadata.json, metrics.jsonl, logs/ …
    run/checkpoints/  only if asked for

The same run gives the same bytes: the names are sorted, the times fixed.

Who reads a bundle trusts nothing in it. Names cannot lead out of the directory that it is unpacked
to, there are no links, the sizes are bounded, nothing in it is run, and what differs from its
sha256 is refused.
"""

import hashlib
import json
import re
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from pydantic.dataclasses import dataclass

from mlops import files
from mlops.errors import PipelineError
from mlops.parameters import STRICT, parse_parameters
from mlops.tables import size

FORMAT_VERSION = 1

MANIFEST, PARAMS, LOCK, RUN = "manifest.json", "params.yaml", "dvc.lock", "run/"
CHECKPOINTS = f"{RUN}checkpoints/"
REQUIRED = (PARAMS, LOCK, f"{RUN}config.json", f"{RUN}metadata.json")

MOST_FILES = 10_000
MOST_MANIFEST_BYTES = 8_000_000
# Of all that is packed, which can be far more than the bundle's own bytes. Checkpoints, which
# hardly get smaller, are stored as they are.
MOST_PACKED_BYTES = 2_000_000_000

_NAME = re.compile(r"(\w[\w.@+=-]{0,199}/){0,7}\w[\w.@+=-]{0,199}", re.ASCII)
_LONGEST_AGO = (1980, 1, 1, 0, 0, 0)  # of a zip archive
_PIECE_BYTES = 1 << 20

# What zipfile raises for bytes that are no archive, or one of a kind that is never written here.
_DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Content:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manifest:
    """`commit` has the code of the run, None if no commit does; `stage` is DVC's name of what made
    its results, None if it has none yet; `remotes` are the URLs of the exporter's remotes."""

    format_version: int
    run: str
    experiment: str
    commit: str | None
    stage: str | None
    remotes: dict[str, str]
    files: dict[str, Content]


def write_bundle(path: Path, manifest: Manifest, contents: Mapping[str, Path | bytes]) -> None:
    """Write the files, by their names in the bundle; the manifest's `files` are filled in."""
    described = {name: _describe(contents[name]) for name in sorted(contents)}
    packed_bytes = sum(item.size_bytes for name, item in described.items() if not _is_stored(name))
    faults = [f"{name}: {fault}" for name in described for fault in _faults_of_name(name)]
    if packed_bytes > MOST_PACKED_BYTES:
        faults.append(
            f"{path}: expected files of at most {size(MOST_PACKED_BYTES)} besides checkpoints, got "
            f"{size(packed_bytes)}; move large ones out of artifacts/"
        )
    if faults:
        raise PipelineError(*faults)
    document = asdict(manifest) | {"files": {name: asdict(one) for name, one in described.items()}}
    with files.replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        with archive.open(_info(MANIFEST), "w") as target:
            target.write(json.dumps(document, indent=2).encode())
        for name in described:
            with archive.open(_info(name), "w", force_zip64=_is_stored(name)) as target:
                for piece in _pieces(contents[name]):
                    target.write(piece)


@contextmanager
def unpacked(path: Path, parent: Path) -> Iterator[tuple[Path, Manifest]]:
    """Unpack a bundle into a new directory below `parent`, which is there until the block ends.

    Raises `PipelineError` for all of its files that are not as they should be.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED:
        raise PipelineError(
            f"{path}: expected a bundle of python -m mlops runs export, got another kind of file; "
            "have it sent again"
        ) from None
    parent.mkdir(parents=True, exist_ok=True)
    with (
        archive,
        tempfile.TemporaryDirectory(prefix=".bundle_", suffix=".tmp", dir=parent) as directory,
    ):
        _check_names(path, archive)
        manifest = _read_manifest(path, archive)
        infos = {info.filename: info for info in archive.infolist()}
        faults = [
            f"{path}: {name}: {fault}; have the bundle made again, and sent as a binary file"
            for name, content in manifest.files.items()
            if (fault := _unpack(archive, infos.get(name), content, Path(directory, name)))
        ]
        unlisted = infos.keys() - manifest.files.keys() - {MANIFEST}
        faults += [
            f"{path}: {name}: expected no such file, for {MANIFEST} lists none; remove it"
            for name in sorted(unlisted)
        ]
        faults += [
            f"{path}: {name}: expected in every bundle, found none; have it made again"
            for name in REQUIRED
            if name not in manifest.files
        ]
        if faults:
            raise PipelineError(*faults)
        yield Path(directory), manifest


def _check_names(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise for everything that the list of the archive's files tells."""
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise PipelineError(
            f"{path}: expected at most {MOST_FILES} files, got {len(infos)}; this is no bundle"
        )
    faults = [f"{info.filename!r}: {fault}" for info in infos for fault in _faults_of(info)]
    names = [info.filename for info in infos]
    # Two that differ in case alone are one file on some disks.
    counts = Counter(name.lower() for name in names)
    faults += [f"{name!r}: expected once, got it again" for name in counts if counts[name] > 1]
    packed = [info for info in infos if info.compress_type != zipfile.ZIP_STORED]
    stored = [info for info in infos if info.compress_type == zipfile.ZIP_STORED]
    for kind, of_kind, most in (
        ("packed", packed, MOST_PACKED_BYTES),
        ("stored", stored, path.stat().st_size),
    ):
        if (total := sum(info.file_size for info in of_kind)) > most:
            faults.append(f"expected at most {size(most)} of {kind} files, got {size(total)}")
    if MANIFEST not in names:
        faults.append(f"expected {MANIFEST}, found none")
    elif archive.getinfo(MANIFEST).file_size > MOST_MANIFEST_BYTES:
        faults.append(f"{MANIFEST}: expected at most {size(MOST_MANIFEST_BYTES)}, got more")
    if faults:
        raise PipelineError(
            *(f"{path}: {fault}; this is no bundle of this project" for fault in faults)
        )


def _faults_of(info: zipfile.ZipInfo) -> Iterator[str]:
    yield from _faults_of_name(info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        yield "expected a plain file, got a link or another kind"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield "expected it stored or deflated, got another way of packing"
    if info.header_offset < 0:
        yield "expected it within the archive, got a place before it"


def _faults_of_name(name: str) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield "expected a name of letters, digits and . _ - @ + = in at most 8 parts, got another"
    elif name not in (MANIFEST, PARAMS, LOCK) and not name.startswith(RUN):
        yield f"expected {MANIFEST}, {PARAMS}, {LOCK} or a file below {RUN}, got another"


def _read_manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    where = f"{path}: {MANIFEST}"
    try:
        document = json.loads(archive.read(MANIFEST))
    except _DAMAGED as error:
        raise PipelineError(
            f"{where}: expected JSON, got a fault ({error}); have the bundle sent again"
        ) from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION:
        raise PipelineError(
            f"{where}: expected format version {FORMAT_VERSION}, got {version}; apply it in a "
            "clone with the code that made it"
        )
    return parse_parameters(document, Manifest, where=where)


def _unpack(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, content: Content, target: Path
) -> str | None:
    """Write one file; what is wrong with it, in words."""
    if info is None:
        return "expected it in the bundle, found none"
    if info.file_size != content.size_bytes:
        return f"expected {content.size_bytes} bytes, got {info.file_size}"
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(info) as source, target.open("xb") as file:
            # Never more than `file_size`, whatever the packed bytes would give.
            for piece in _read_pieces(source):
                digest.update(piece)
                file.write(piece)
    except _DAMAGED as error:
        return f"expected the bytes that were packed, got damaged ones ({error})"
    if digest.hexdigest() != content.sha256:
        return f"expected sha256 {content.sha256[:8]}, got {digest.hexdigest()[:8]}"
    files.sync(target)
    return None


def _describe(content: Path | bytes) -> Content:
    digest, size_bytes = hashlib.sha256(), 0
    for piece in _pieces(content):
        digest.update(piece)
        size_bytes += len(piece)
    return Content(size_bytes=size_bytes, sha256=digest.hexdigest())


def _pieces(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as source:
        yield from _read_pieces(source)


def _read_pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(_PIECE_BYTES):
        yield piece


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _LONGEST_AGO)
    info.create_system = 3  # Unix, wherever it is written
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_STORED if _is_stored(name) else zipfile.ZIP_DEFLATED
    return info


def _is_stored(name: str) -> bool:
    return name.startswith(CHECKPOINTS)
