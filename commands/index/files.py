"""The files below a folder: which are videos by their content, and why the others are none."""

import itertools
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import av

from mlops.processes.progress import track
from video.source.container import demuxed, picture_stream, undecodable_codecs

# What systems leave in folders, beside names that begin with a dot.
_OF_SYSTEMS = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found"))

_TABLES = (".csv", ".tsv", ".txt")
_TABLE_DEPTH = 2  # FOLDER/splits/train.txt

PICTURES = ("a picture", "a single picture")

_PLAYLISTS = frozenset(("concat", "dash", "hls"))
_TEXTS = frozenset(("tty", "txd", "lrc"))


@dataclass(kw_only=True)
class Files:
    """Paths relative to the folder, with slashes, in order.

    ignored: why a file is no video, by its path.
    tables: files that may be tables of the videos; unless one is used, it is ignored.
    faults: what keeps files from being looked at.
    """

    videos: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def scan(folder: Path, own: Collection[Path] = ()) -> Files:
    """Look at every file below `folder` but hidden ones and those that the command has written."""
    found = Files()
    ours = {path.name: path.resolve() for path in own}
    paths = [
        path
        for path in _walk(folder, found.faults)
        if (mine := ours.get(PurePosixPath(path).name)) is None or (folder / path).resolve() != mine
    ]
    for path in track(paths, total=len(paths), task="index"):
        place = folder / path
        if path.lower().endswith(_TABLES):
            found.ignored[path] = "a text"
            if path.count("/") < _TABLE_DEPTH:
                found.tables.append(path)
        elif not place.exists():
            found.ignored[path] = "a link to nothing"
        elif not place.is_file():
            found.ignored[path] = "neither a file nor a folder"
        else:
            try:
                reason = no_video(place)
            except OSError as error:
                found.faults.append(_unreadable(place, "file", error))
                continue
            if reason:
                found.ignored[path] = reason
            else:
                found.videos.append(path)
    return found


def _walk(folder: Path, faults: list[str]) -> list[str]:
    """Return the files below `folder`; of links to one place only the first is followed."""
    files: list[str] = []
    visited: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            stat = (folder / directory).stat()
            entries = sorted(os.scandir(folder / directory), key=lambda entry: entry.name)
        except OSError as error:
            faults.append(_unreadable(folder / directory, "folder", error))
            continue
        if (stat.st_dev, stat.st_ino) in visited:
            continue
        visited.add((stat.st_dev, stat.st_ino))
        below = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _OF_SYSTEMS:
                continue
            path = f"{directory}/{entry.name}".removeprefix("/")
            if not _is_unicode(entry.name):
                faults.append(
                    f"{shown(folder / path)}: expected a name in UTF-8, which a table can hold; "
                    "rename it"
                )
            elif entry.is_dir():
                below.append(path)
            else:
                files.append(path)
        # Own folders before links to others, so that a file is named by its own place.
        waiting += sorted(below, key=lambda path: ((folder / path).is_symlink(), path))[::-1]
    return sorted(files)


def _unreadable(place: Path, noun: str, error: OSError) -> str:
    return (
        f"{shown(place)}: expected a {noun} that can be read, got: {error.strerror}; run chmod -R "
        "u+rX on it, or give a folder without it"
    )


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: object) -> str:
    """Return a path for a message, on one line and in signs that any terminal can print."""
    text = os.fsencode(str(path)).decode(errors="backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def no_video(path: Path) -> str:
    """Return why a file is no video, "" if it is one; its header is read, and two packets at most.

    Whether a video can be decoded to its end is for load_data to find out. Raises `OSError` for a
    file that cannot be read.
    """
    if path.stat().st_size == 0:
        return "empty"
    try:
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError:
        return _unopened(path)
    with container:
        name = container.format.name
        if name in _PLAYLISTS or name in _TEXTS:
            return "a list of other files" if name in _PLAYLISTS else "a text"
        if name.endswith("_pipe") or name == "image2":
            return PICTURES[0]
        stream = picture_stream(container)
        if stream is None:
            if codecs := undecodable_codecs(container):
                return f"a video that FFmpeg has no decoder for: codec {', '.join(codecs)}"
            return "sound without pictures" if container.streams.audio else "no pictures in it"
        # A header that does not say how many frames there are says 0.
        frames = stream.frames if stream.frames > 1 else _up_to_two(container, stream)
        return ("no pictures in it", PICTURES[1], "")[min(frames, 2)]


def _up_to_two(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """Return how many pictures a stream holds, 2 for more."""
    pictures = (packet for packet in demuxed(container, stream) if packet.size)
    try:
        return sum(1 for _ in itertools.islice(pictures, 2))
    except av.FFmpegError:
        return 0


def _unopened(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs: run git lfs pull"
    if head[4:8] == b"ftyp":
        return "a video that is cut off, its table of contents is missing: copy it again"
    return "nothing that FFmpeg can open"
