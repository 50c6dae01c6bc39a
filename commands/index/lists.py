"""Lists of videos as data sets publish them: UCF101, HMDB51, and MMAction2's text files."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from commands.index.source import Lookup, Row, Source
from commands.index.tables import no_video_named, split_of
from mlops.errors import PipelineError
from mlops.files.tables import listed
from video.index.spelling import plain

_UCF101 = re.compile(r"(train|test)list0*(\d+)\.txt", re.IGNORECASE)
_HMDB51 = re.compile(r"(.+)_test_split(\d+)\.txt", re.IGNORECASE)
_HMDB51_SPLITS = {"1": "train", "2": "test"}  # 0: in neither

# "path label", as PyTorchVideo and SlowFast write it too; "path frames label" for raw frames.
_LINE = re.compile(r"(?P<path>.+?)(?:[ \t,;]+(?P<frames>\d+))?[ \t,;]+(?P<label>\d+)")
_LABEL_MAP = re.compile(
    r"(.*_)?(label|class)_?(map|names|list|ind)(_.*)?\.(txt|csv)|(classes|labels)\.txt",
    re.IGNORECASE,
)


def ucf101(folder: Path, names: Sequence[str], lookup: Lookup, number: int) -> Source | None:
    """Read trainlist01.txt and testlist01.txt; the groups are those of the names, as g07."""
    lists = _official(_UCF101, names, number)
    if not lists:
        return None
    source = Source(form=f"UCF101's split {number}", tables=_all(_UCF101, names))
    source.tables += [name for name in names if PurePosixPath(name).name == "classInd.txt"]
    for name, match in lists.items():
        for place, line in _lines(folder, name):
            listed_path = re.sub(r" \d+$", "", line)
            path = lookup.find(listed_path)
            if path is None:
                source.warnings.append(no_video_named(place, listed_path, folder))
                continue
            label = PurePosixPath(listed_path).parts[0]
            group = re.search(r"_(g\d+)_c\d+$", PurePosixPath(path).stem)
            source.rows.append(
                Row(
                    path=path,
                    label=plain(label),
                    place=place,
                    group=f"{label}_{group[1]}" if group else None,
                    split=match[1].lower(),
                )
            )
    return source


def hmdb51(folder: Path, names: Sequence[str], lookup: Lookup, number: int) -> Source | None:
    """Read <class>_test_split1.txt; the group is what a name says before its class."""
    lists = _official(_HMDB51, names, number)
    if not lists:
        return None
    source = Source(form=f"HMDB51's split {number}", tables=_all(_HMDB51, names))
    for name, match in lists.items():
        label = match[1]
        for place, line in _lines(folder, name):
            file, _, part = line.rpartition(" ")
            path = lookup.find(f"{label}/{file.strip()}") or lookup.find(file)
            if path is None:
                source.warnings.append(no_video_named(place, file, folder))
            elif part not in _HMDB51_SPLITS:
                source.left_out[path] = f"{place} has it in neither part of the split"
            else:
                before, named, _ = PurePosixPath(path).stem.partition(f"_{label}_")
                source.rows.append(
                    Row(
                        path=path,
                        label=plain(label),
                        place=place,
                        group=before if named else None,
                        split=_HMDB51_SPLITS[part],
                    )
                )
    return source


def mmaction2(folder: Path, names: Sequence[str], lookup: Lookup) -> Source | None:
    """Read lists of `path label`; refuse those of raw frames."""
    maps = [name for name in names if _LABEL_MAP.fullmatch(PurePosixPath(name).name)]
    lists = {
        name: lines
        for name in names
        if name not in maps and (lines := _parsed(folder, name, lookup))
    }
    if not lists:
        return None
    labels = _label_map(folder, maps)
    source = Source(
        form=f"lists of path and label, {listed(list(lists))}", tables=[*lists, *maps[:1]]
    )
    for name, lines in lists.items():
        for place, line in lines:
            path = lookup.find(line["path"])
            if path is None:
                source.warnings.append(no_video_named(place, line["path"], folder))
            elif labels and line["label"] not in labels:
                source.faults.append(
                    f"{place}: expected a label of {maps[0]}, which has {len(labels)}, got "
                    f"{line['label']}; correct the row or the map"
                )
            else:
                source.rows.append(
                    Row(
                        path=path,
                        label=labels.get(line["label"], line["label"]),
                        place=place,
                        split=split_of(name),
                    )
                )
    if not labels:
        source.warnings.append(
            "the labels are numbers; for names, put a file label_map.txt with one name per line "
            "beside the lists"
        )
    return source


def _official(
    pattern: re.Pattern[str], names: Sequence[str], number: int
) -> dict[str, re.Match[str]]:
    """Return the lists of a data set's split `number`, with what their names say."""
    found = {name: pattern.fullmatch(PurePosixPath(name).name) for name in names}
    lists = {name: match for name, match in found.items() if match}
    chosen = {name: match for name, match in lists.items() if int(match[2]) == number}
    if lists and not chosen:
        numbers = sorted({int(match[2]) for match in lists.values()})
        raise PipelineError(
            f"--official-split: expected one of {listed(numbers)}, whose lists are there, got "
            f"{number}; choose one of them"
        )
    return chosen


def _all(pattern: re.Pattern[str], names: Sequence[str]) -> list[str]:
    return [name for name in names if pattern.fullmatch(PurePosixPath(name).name)]


def _lines(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    text = (folder / name).read_text(encoding="utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{folder}/{name} line {number}", line.strip()


def _parsed(folder: Path, name: str, lookup: Lookup) -> list[tuple[str, Mapping[str, str]]]:
    """Return the lines of a list; none if the file is no list of videos of this folder."""
    lines = [(place, _LINE.fullmatch(line)) for place, line in _lines(folder, name)]
    parsed: list[tuple[str, Mapping[str, str]]] = [
        (place, match.groupdict()) for place, match in lines if match
    ]
    if not parsed or len(parsed) < len(lines):
        return []
    if any(line["frames"] and (folder / line["path"]).is_dir() for _, line in parsed):
        raise PipelineError(
            f"{folder}/{name}: expected lines of a video's path and its label, got directories of "
            "frames, their number and the label; frames are no videos: list the videos that they "
            "were taken from, or join each directory, as ffmpeg -framerate 25 -i img_%05d.jpg "
            "NAME.mp4"
        )
    found = sum(lookup.find(line["path"]) is not None for _, line in parsed)
    return parsed if 2 * found > len(parsed) else []


def _label_map(folder: Path, maps: Sequence[str]) -> dict[str, str]:
    """Return names by number: one a line, from 0, or lines of a number and a name."""
    if not maps:
        return {}
    lines = [line for _, line in _lines(folder, maps[0])]
    numbered = [re.fullmatch(r"(\d+)[ \t,;:]+(.+)", line) for line in lines]
    if lines and not re.fullmatch(r"\d+[ \t,;:].*", lines[0]) and all(numbered[1:]) and lines[1:]:
        numbered = numbered[1:]  # below a header
    if all(numbered):
        return {match[1]: plain(match[2]) for match in numbered if match}
    return {str(number): plain(line) for number, line in enumerate(lines)}
