"""The remotes that DVC knows: where the contents of data and models are kept beside this disk."""

import configparser
import re
from pathlib import Path

from mlops.recorded.dvc_cache import ask_dvc

# DVC's own files of settings; what is in a user's home is named from elsewhere anyway.
_SETTINGS = (Path(".dvc/config"), Path(".dvc/config.local"))


def remotes() -> dict[str, str]:
    """The URL or path of each remote by its name, for the current directory."""
    # Not by `dvc remote list`, which breaks long lines as for a terminal.
    settings = "\n".join(ask_dvc("config", "--list"))
    return dict(re.findall(r"^remote\.(.+)\.url=(.*)$", settings, re.MULTILINE))


def relative_remotes() -> set[str]:
    """The names of remotes that are folders named by a path relative to .dvc.

    Of those `dvc push --all-commits` and its like make another folder: DVC reads the settings of
    each commit as if the repository lay at the root of the disk (treeverse/dvc issue 10054).
    """
    found = set()
    for path in _SETTINGS:
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        settings.read(path, encoding="utf-8")
        for section in settings.sections():
            url = settings.get(section, "url", fallback="")
            named = re.fullmatch(r"'?remote \"(.+)\"'?", section)
            if named and url and "://" not in url and not Path(url).is_absolute():
                found.add(named[1])
    return found


def without_secrets(url: str) -> str:
    """
    >>> without_secrets("ssh://me:word@host/store"), without_secrets("s3://bucket/store")
    ('ssh://host/store', 's3://bucket/store')
    """
    return re.sub(r"(?<=://)[^/@]*@", "", url)
