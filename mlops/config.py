"""The configuration of a run: params.yaml, and what was set beside it for this run alone."""

import copy
import difflib
import inspect
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlops.errors import PipelineError
from mlops.files.canonical import canonical_json, config_hash, flatten
from mlops.files.yaml_text import load_yaml

PARAMS_FILE = "params.yaml"

# Sections that change no result.
UNHASHED = ("experiment", "runtime")

# Each keyword and the values of params.yaml that it sets.
KEYWORDS: Mapping[str, Sequence[str]] = {
    "experiment_name": ["experiment.name"],
    "description": ["experiment.description"],
    "tags": ["experiment.tags"],
    "data_csv": ["data.index"],
    "random_seed": ["seed", "seeds"],
    "test_split": ["split.test_share"],
    "num_frames": ["clips.frames"],
    "fixed_size": ["clips.height", "clips.width"],
    "num_augmentations_per_video": ["augment.copies"],
    "dropout": ["init_model.dropout"],
    "num_epochs": ["train.epochs"],
    "batch_size": ["train.batch_size"],
    "learning_rate": ["train.learning_rate"],
    "weight_decay": ["train.weight_decay"],
    "early_stopping_patience": ["train.patience_epochs"],
    "device": ["runtime.device"],
    "num_workers": ["runtime.workers"],
}


class RunConfig:
    """All values of params.yaml, with those replaced that a keyword or `set_params` names.

    | keyword                       | value of params.yaml               | unit              |
    | ----------------------------- | ---------------------------------- | ----------------- |
    | `experiment_name`             | `experiment.name`                  |                   |
    | `description`                 | `experiment.description`           |                   |
    | `tags`                        | `experiment.tags`                  |                   |
    | `data_csv`                    | `data.index`                       | path              |
    | `random_seed`                 | `seed` and `seeds`                 |                   |
    | `test_split`                  | `split.test_share`                 | share of videos   |
    | `num_frames`                  | `clips.frames`                     | frames            |
    | `fixed_size`                  | `clips.height` and `clips.width`   | px                |
    | `num_augmentations_per_video` | `augment.copies`                   | copies            |
    | `dropout`                     | `init_model.dropout`               | probability       |
    | `num_epochs`                  | `train.epochs`                     | epochs            |
    | `batch_size`                  | `train.batch_size`                 | clips             |
    | `learning_rate`               | `train.learning_rate`              | of AdamW, a step  |
    | `weight_decay`                | `train.weight_decay`               | of AdamW          |
    | `early_stopping_patience`     | `train.patience_epochs`            | epochs            |
    | `device`                      | `runtime.device`                   | auto, cpu, cuda:0 |
    | `num_workers`                 | `runtime.workers`                  | number            |

    `data_csv` names the index alone. Where the videos lie, and how the index calls things, is
    `set_params=["data.root=data/mine", "data.group_column=source", "data.labels=[fight, calm]"]`.
    Values of `train` are those of every model that has none of its own in `train_of`.
    `num_workers` are processes of the data stages, and threads of training.
    `early_stopping_patience` goes with `set_params=["train.publish=best"]`.

    Each can be read as an attribute of the same name. `run_id`, `output_dir` (the run's directory)
    and `project_root` (where params.yaml lies; the current directory if not given) say where the
    run is and are in no hash. Whether a value has the right type and range is checked by the
    stages, which read it. A configuration cannot be changed; `diff` compares two.
    """

    __signature__: inspect.Signature  # with the names of the table, for who asks what can be given

    run_id: str | None
    project_root: str
    output_dir: str | None

    def __init__(
        self,
        *,
        run_id: str | None = None,
        project_root: str | Path = ".",
        output_dir: str | Path | None = None,
        set_params: Iterable[str] = (),
        **keywords: Any,
    ) -> None:
        """Read params.yaml of `project_root`; one `PipelineError` lists all faults.

        A keyword that is None counts as not given. `set_params` are texts such as
        "train.epochs=3", values in YAML 1.2; they come after the keywords. `data_csv` below
        `project_root` counts from there, as in params.yaml.
        """
        index = keywords.get("data_csv")
        if isinstance(index, str | Path):
            keywords["data_csv"] = _below(Path(project_root), index)
        self.__dict__.update(
            run_id=run_id,
            project_root=str(project_root),
            output_dir=None if output_dir is None else str(output_dir),
            params=_read(Path(project_root) / PARAMS_FILE, keywords, set_params),
        )

    @classmethod
    def from_params(
        cls, path: str | Path = PARAMS_FILE, set_params: Iterable[str] = ()
    ) -> "RunConfig":
        """Read the file at `path`, whatever its name, with what `set_params` replaces in it."""
        params = _read(Path(path), {}, set_params)
        place = {"run_id": None, "project_root": str(Path(path).parent), "output_dir": None}
        return cls.from_dict(place | {"params": params})

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "RunConfig":
        """Return the configuration that gave this by `to_dict`; params.yaml is not read."""
        names = {"run_id", "project_root", "output_dir", "params"}
        if document.keys() != names:
            got = ", ".join(map(str, document)) or "none"
            raise PipelineError(
                f"RunConfig.from_dict: expected the keys {', '.join(sorted(names))}, got {got}; "
                "give it what to_dict returned"
            )
        config = cls.__new__(cls)
        config.__dict__.update(copy.deepcopy(dict(document)))
        return config

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Return the configuration that gave this by `to_json`."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise PipelineError(
                f"RunConfig.from_json: expected JSON, got a fault ({error}); give it what to_json "
                "returned"
            ) from None
        return cls.from_dict(document if isinstance(document, dict) else {})

    @classmethod
    def of_run(cls, run_dir: str | Path) -> "RunConfig":
        """Return what a run was made with, one of the train stage or of a notebook.

        Later attempts had the same values, but for those that `hash` ignores and for stages that
        the run does not depend on.
        """
        path = Path(run_dir) / "config.json"
        try:
            document = json.loads(path.read_bytes())
            config = document.get("run_config", document)["config"]
            is_whole = "params" in config
        except FileNotFoundError:
            raise PipelineError(
                f"{path}: expected the directory of a run, found no such file; "
                "python -m commands runs lists them"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PipelineError(
                f"{path}: expected the configuration of a run, got a damaged file "
                f"({error!r}); restore it"
            ) from None
        if not is_whole:
            raise PipelineError(
                f"{path}: expected all of params.yaml, got the values of one stage: earlier code "
                "made the run; compare it by python -m commands runs compare"
            )
        return cls.from_dict(config)

    def document(self) -> dict[str, Any]:
        """Return what a run keeps of it: `hash()` and `to_dict()`, for `of_run`."""
        return {"hash": self.hash(), "config": self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Return a copy in plain types."""
        return copy.deepcopy(self.__dict__)

    def to_json(self) -> str:
        """Return `to_dict` as JSON, on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @property
    def params(self) -> dict[str, Any]:
        """The sections of params.yaml, a copy: nested dicts, lists and scalars."""
        params: dict[str, Any] = self.to_dict()["params"]
        return params

    def hash(self) -> str:
        """Return the sha256 of what can change a result, 64 hex digits.

        The same for another order of keys, other comments and other spellings of a number; the
        sections `experiment` and `runtime`, the run's id and its paths are not in it.
        """
        return config_hash({k: v for k, v in self.params.items() if k not in UNHASHED})

    def diff(self, other: "RunConfig") -> dict[str, tuple[Any, Any]]:
        """Return, by dotted key, both values if they differ; None for no value."""
        ours, theirs = flatten(self.params), flatten(other.params)
        return {
            key: (ours.get(key), theirs.get(key))
            for key in sorted(ours.keys() | theirs.keys())
            if canonical_json(ours.get(key)) != canonical_json(theirs.get(key))
        }

    def __getattr__(self, name: str) -> Any:
        if name not in KEYWORDS:
            raise AttributeError(f"RunConfig has no {name!r}; params holds all of params.yaml")
        return flatten(self.params).get(KEYWORDS[name][0])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"RunConfig is frozen: make a new one with {name}={value!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"RunConfig is frozen: {name} stays")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunConfig):
            return NotImplemented
        return canonical_json(self.to_dict()) == canonical_json(other.to_dict())

    def __hash__(self) -> int:
        return hash(canonical_json(self.to_dict()))

    def __repr__(self) -> str:
        return f"RunConfig.from_json({self.to_json()!r})"


def _signature() -> inspect.Signature:
    _, *parameters, _ = inspect.signature(RunConfig.__init__).parameters.values()
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    named = [inspect.Parameter(name, keyword_only, default=None) for name in KEYWORDS]
    return inspect.Signature([*parameters, *named])


RunConfig.__signature__ = _signature()


def _read(path: Path, keywords: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """Return the values of a file with those of the keywords and texts, in types that JSON has.

    A date becomes its text, a tuple a list, a path a text.
    """
    params = load_yaml(path)
    if not isinstance(params, dict):
        raise PipelineError(
            f"{path}: expected sections with keys, got {type(params).__name__}; restore it with "
            f"git checkout HEAD -- {path}"
        )
    faults = [*_set_keywords(params, keywords, path), *_set_texts(params, texts, path)]
    faults += [
        f"{path}: {key}: expected a finite number, got {value}; write one"
        for key, value in flatten(params).items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if faults:
        raise PipelineError(*faults)
    document: dict[str, Any] = json.loads(json.dumps(params, default=str))
    return document


def _below(root: Path, path: str | Path) -> str:
    # So that a repository that lies elsewhere has the same configuration.
    path, root = Path(path), root.absolute()
    if path.is_relative_to(root):
        path = path.relative_to(root)
    return path.as_posix()


def _set_keywords(params: dict[str, Any], keywords: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Set the values of the keywords that are not None, and yield what is at fault."""
    for keyword, value in keywords.items():
        if value is not None and keyword not in KEYWORDS:
            yield _unknown_keyword(keyword, params)
        elif value is not None:
            for key in KEYWORDS[keyword]:
                # One number seeds all that draws: of the repeats of a training there is one.
                given = [value] if key == "seeds" else value
                yield from _set(params, key, given, path, f"RunConfig: {keyword}")


def _set_texts(params: dict[str, Any], texts: Iterable[str], path: Path) -> Iterator[str]:
    """Set the values of texts such as "train.epochs=3", and yield what is at fault."""
    for text in texts:
        key, sign, written = text.partition("=")
        if not sign:
            yield (
                f"set-param {text!r}: expected a key and a value, got no '='; write "
                f"{_nearest(text, flatten(params)) or 'KEY'}=VALUE"
            )
            continue
        try:
            value = YAML(typ="safe", pure=True).load(written)
        except (YAMLError, ValueError) as error:
            problem = " ".join(str(getattr(error, "problem", None) or error).split())
            yield (
                f"set-param {text!r}: expected a value in YAML 1.2, got an error ({problem}); "
                "put the value in quotes"
            )
            continue
        yield from _set(params, key.strip(), value, path, f"set-param {text!r}")


def _set(params: dict[str, Any], key: str, value: Any, path: Path, where: str) -> list[str]:
    """Set the value of a dotted key in place; return the faults if there is no such key."""
    *sections, last = key.split(".")
    place: Any = params
    for name in sections:
        place = place.get(name) if isinstance(place, dict) else None
    known = flatten(params)
    if not isinstance(place, dict) or last not in place:
        close = _nearest(key, known)
        hint = f"did you mean {close}?" if close else f"write one of {', '.join(params)} and a key"
        return [f"{where}: expected a key of {path}, got {key!r}; {hint}"]
    if isinstance(place[last], dict) and place[last]:
        keys = ", ".join(name for name in known if name.startswith(f"{key}."))
        return [f"{where}: expected the key of a value, got the section {key}; write one of {keys}"]
    place[last] = value
    return []


def _unknown_keyword(keyword: str, params: Mapping[str, Any]) -> str:
    known = ["run_id", "project_root", "output_dir", "set_params", *KEYWORDS]
    close = difflib.get_close_matches(keyword, known, n=1)
    hints = [f"did you mean {close[0]}?"] if close else [f"known: {', '.join(known)}."]
    if key := _nearest(keyword, flatten(params)):
        hints.append(f'Of params.yaml {key} is nearest: set_params=["{key}=VALUE"]')
    else:
        hints.append('Any value of params.yaml: set_params=["KEY=VALUE"]')
    return f"RunConfig: expected keywords that it knows, got {keyword!r}; {' '.join(hints)}"


def _nearest(key: str, known: Iterable[str]) -> str | None:
    """Return the known dotted key that is spelled most alike, or whose last part is."""
    known = list(known)
    if close := difflib.get_close_matches(key, known, n=1):
        return close[0]
    last = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], last, n=1)
    return last[close[0]] if close else None
