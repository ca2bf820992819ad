"""Published studies of judges against people, read from the files that their authors publish; none is shipped here.

Each study makes lines of the import format and goes through the one importer, so loading one twice is loading it once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from reviewapp.interchange.importer import Progress, import_file
from reviewapp.interchange.problems import ImportRefused, Problem
from reviewapp.interchange.public import alttest, research_ideas
from reviewapp.interchange.report import ImportReport

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Study:
    title: str
    # One file by which its folder is known.
    landmark: str
    lines: Callable[[Path], Iterator[dict[str, Any]]]


STUDIES = {
    "summeval": Study("SummEval, as in the alternative annotator test", "human_annotations.json", alttest.summeval_lines),
    "mtbench": Study("MT-bench, as in the alternative annotator test", "human_annotations.json", alttest.mtbench_lines),
    "cebab_stars": Study("CEBaB stars, as in the alternative annotator test", "human_annotations.json", alttest.cebab_lines),
    "research_ideas": Study("Research ideas by people and by AI", "data_points_all_anonymized.json", research_ideas.lines),
}


def load_public(name: str, root: str | Path, *, dry_run: bool = False, on_progress: Progress | None = None) -> ImportReport:
    """Load a study from `root`, which is its own folder or one above it. Raises ImportRefused."""
    study = STUDIES[name]
    folder = find_folder(name, Path(root))
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        try:
            for line in study.lines(folder):
                file.write(orjson.dumps(line) + b"\n")
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{folder}: not the files of {study.title}: {type(error).__name__}: {error}"
            raise ImportRefused([Problem(None, "", reason)]) from error
        file.flush()
        return import_file(file.name, HERE / f"{name}.toml", dry_run=dry_run, title=study.title, on_progress=on_progress)


def find_folder(name: str, root: Path) -> Path:
    """The study's folder: `root` itself, or one of its name up to three levels below."""
    landmark = STUDIES[name].landmark
    if (root / landmark).is_file() and (root.name == name or not (root / name).is_dir()):
        return root
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        for folder in sorted(root.glob(pattern)):
            if (folder / landmark).is_file():
                return folder
    raise ImportRefused([Problem(None, "", f"{root}: no {landmark} here, in {name}/, or in {name}/ up to two folders below")])
