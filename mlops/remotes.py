"""The remotes that DVC knows: where the contents of data and models are kept beside this disk."""

import re

from mlops.cache import ask_dvc


def remotes() -> dict[str, str]:
    """The URL or path of each remote by its name, for the current directory."""
    # Not by `dvc remote list`, which breaks long lines as for a terminal.
    settings = "\n".join(ask_dvc("config", "--list"))
    return dict(re.findall(r"^remote\.(.+)\.url=(.*)$", settings, re.MULTILINE))


def without_secrets(url: str) -> str:
    """
    >>> without_secrets("ssh://me:word@host/store"), without_secrets("s3://bucket/store")
    ('ssh://host/store', 's3://bucket/store')
    """
    return re.sub(r"(?<=://)[^/@]*@", "", url)
