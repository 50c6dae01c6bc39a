"""A guess of the groups, the videos of one source, from the names of folders and files.

A name is shortened by the numbers and time stamps at its end, one after another, as
"cam1_day2_take_03" to "cam1_day2" and "cam1". The shortest that may name a source does.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from commands.index.files import shown
from mlops.processes.progress import counted
from video.index.spelling import plain

GroupBy = Literal["guess", "folder", "name", "none"]

RULES = {
    "guess": (
        "videos in one folder below that of their class are one group, and so are videos whose "
        "names differ in the numbers and time stamps at their ends alone; but if more than half "
        "of a class would be one group, these are taken for names of videos, not of parts; the "
        "chapters of a GoPro recording are one group"
    ),
    "folder": "videos in one folder below that of their class are one group",
    "name": "videos whose names differ in the last number or time stamp alone are one group",
    "none": "each video is a group of its own",
}

MAX_SHARE = 0.5  # of a class's videos in one group

# What is added to the name of a copy.
_LINES = r"(?:144|240|360|480|540|720|1080|1440|2160|4320)p(?:\d\d)?"  # of a picture
_COPY = re.compile(
    r"[ _.-]+(?:copy|kopie|copie)(?: ?\(?\d+\)?)?$"
    rf"|[ _.-]*[([]?(?<![^\W_]){_LINES}[)\]]?$"
    r"|[ _.-]+(?:compressed|converted|resized|reencoded|x264|x265|h264|h265)$",
    re.IGNORECASE,
)

_GAP = r"[ _.,~+-]"
_MOMENT = (
    r"(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d"
    rf"(?:(?:{_GAP}|T|at)+[0-2]\d[-_.:h]?[0-5]\d(?:[-_.:m]?[0-5]\d(?:[-_.]?\d{{3}})?)?)?"
)
_PART = rf"(?:[a-z]|(?:part|pt|clip|scene|seg|segment|take|cut|chunk|shot|nr|wa){_GAP}*)?\d+"
_LAST = re.compile(rf"(?:^|{_GAP}+)(?:{_MOMENT}|{_PART})$|{_GAP}*\(\d+\)$", re.IGNORECASE)
_GLUED = re.compile(r"(?<=[^\W\d_])\d+$")

# GoPro writes a recording in chapters: GH010042, GH020042; older ones GOPR0042, GP010042.
_CHAPTER = re.compile(r"(?:GOPR|G[HLPSX]\d\d)(\d{4})", re.IGNORECASE)

# What cameras, phones and programs write before their numbers; and words for "no value".
_WORDS = (
    "vid video videos movie mov img image pxl mvi dsc dscn dji gopr gh gx gp gl cimg wa whatsapp "
    "signal telegram snapchat tiktok instagram screen recording rec capture clip clips part scene "
    "segment take cut chunk shot frame file output untitled sample at na nan none null"
)
_SAYS_NOTHING = frozenset(_WORDS.split())


@dataclass(frozen=True, kw_only=True)
class Named:
    """A video to group; `folders` are those between the folder of its class and the file."""

    path: str
    label: str
    folders: tuple[str, ...] = ()


def guessed_groups(videos: Sequence[Named], by: GroupBy) -> list[str]:
    """Return the group of each video, "" for a group of its own."""
    if by == "none":
        return [""] * len(videos)
    sources = [_sources(video, by) for video in videos]
    too_wide = _shared_by_most(videos, sources) if by == "guess" else set()
    # The last one, without what is added to copies, holds in any case.
    chosen = [
        next((name for name in names[:-1] if name not in too_wide), names[-1]) for names in sources
    ]
    sizes = Counter(chosen)
    return [name if sizes[name] > 1 else "" for name in chosen]


def _sources(video: Named, by: GroupBy) -> list[str]:
    """Return names of the source of a video, the widest first."""
    path = PurePosixPath(video.path)
    stem = _without_copy(path.stem)
    shorter = [name for name in _shortened(stem) if _says_something(name, video.label)]
    if chapter := _CHAPTER.fullmatch(stem):
        stem = f"GoPro {chapter[1]}"
    elif not _says_something(re.sub(r"\d", "", stem), video.label):
        stem = str(path.with_name(stem))  # "001.mp4" of another folder is another video
    folders = ["/".join(video.folders[:depth]) for depth in range(1, len(video.folders) + 1)]
    if by == "folder":
        names = [*folders[-1:], video.path]
    elif by == "name":
        names = [*shorter[:1], stem]
    else:
        names = [*folders, *reversed(shorter), stem]
    return [plain(name) for name in names]


def _shared_by_most(videos: Sequence[Named], sources: Sequence[Sequence[str]]) -> set[str]:
    """Return the names under which some class has more than half of its videos, and several."""
    of_class = Counter(video.label for video in videos)
    counts: Counter[tuple[str, str]] = Counter()
    for video, names in zip(videos, sources, strict=True):
        counts.update((video.label, name) for name in set(names))
    return {
        name
        for (label, name), count in counts.items()
        if count > max(1, MAX_SHARE * of_class[label])
    }


def _without_copy(stem: str) -> str:
    while (shorter := _COPY.sub("", stem)) and shorter != stem:
        stem = shorter
    return stem


def _shortened(stem: str) -> Iterator[str]:
    """Yield a name without the last number or time stamp, then without the one before, and so on.

    Digits that follow a letter count if they are the last: those of "cam2_01" are the camera's.
    """
    shorter = _LAST.sub("", stem)
    if shorter == stem:
        shorter = _GLUED.sub("", stem)
    while shorter and shorter != stem:
        yield shorter
        stem, shorter = shorter, _LAST.sub("", shorter)


def _says_something(name: str, label: str) -> bool:
    """Return whether a name is more than a date, a word that any video has, or that of its class.

    >>> _says_something("VID_20240501", "run"), _says_something("VID_0012", "run")
    (False, True)
    """
    words = re.findall(r"[^\W\d_]+|\d+", re.sub(_MOMENT, "", name).casefold())
    nothing = _SAYS_NOTHING | set(re.findall(r"[^\W\d_]+", label.casefold()))
    return any(word not in nothing for word in words)


def examples(videos: Sequence[Named], groups: Sequence[str], max_examples: int = 3) -> list[str]:
    """Return lines that show what the guess did: its largest groups, then videos left alone."""
    members: defaultdict[str, list[str]] = defaultdict(list)
    for video, group in zip(videos, groups, strict=True):
        members[group].append(video.path)
    alone = members.pop("", [])
    most = max_examples - bool(alone)
    largest = sorted(members, key=lambda name: -len(members[name]))[:most]
    lines = [
        f"{shown(members[name][0])} … {shown(members[name][-1])}: "
        f"{counted(len(members[name]), 'video')}, group '{shown(name)}'"
        for name in largest
    ]
    return lines + [
        f"{shown(path)}: a group of its own" for path in alone[: max_examples - len(lines)]
    ]
