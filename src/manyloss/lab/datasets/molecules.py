"""Molecules as counts of the pieces of their SMILES strings, with labels: Tox21 and 499 molecules of QM9."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manyloss.lab import checks
from manyloss.lab.datasets.files import find_file

TOX21 = [
    "NR-AR",
    "NR-AR-LBD",
    "NR-AhR",
    "NR-Aromatase",
    "NR-ER",
    "NR-ER-LBD",
    "NR-PPAR-gamma",
    "SR-ARE",
    "SR-ATAD5",
    "SR-HSE",
    "SR-MMP",
    "SR-p53",
]
QM9 = ["mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "cv", "u0", "u298", "h298", "g298"]
PIECES = 512
"""Buckets into which the pieces of one to three characters are hashed."""


@dataclass(frozen=True)
class Molecules:
    """``features`` float32 [N, 512], log(1 + count); ``labels`` float32 by name [N], NaN where unknown."""

    features: npt.NDArray[np.float32]
    labels: dict[str, npt.NDArray[np.float32]]


def tox21(data_root: str | os.PathLike[str]) -> Molecules:
    """12 assays of 7,831 molecules: 1 active, 0 inactive, NaN not measured; ``tox21.csv.gz``."""
    return _read(find_file("tox21", "tox21.csv.gz", data_root, "MoleculeNet"), TOX21)


def qm9(data_root: str | os.PathLike[str]) -> Molecules:
    """12 properties of 499 molecules, as published; ``qm9_499_chemprop.csv``."""
    return _read(find_file("qm9", "qm9_499_chemprop.csv", data_root, "chemprop"), QM9)


def _read(path: Path, names: Sequence[str]) -> Molecules:
    from sklearn.feature_extraction.text import HashingVectorizer

    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            rows = list(csv.DictReader(file))
        labels = {
            name: np.array([float(row[name] or "nan") for row in rows], dtype=np.float32) for name in names
        }
        smiles = [row["smiles"] for row in rows]
    except KeyError as error:
        raise checks.damaged_data(path, f"it has no column {error.args[0]!r}") from error
    except (OSError, ValueError, EOFError, csv.Error) as error:
        raise checks.damaged_data(path, str(error) or type(error).__name__) from error
    if not rows:
        raise checks.damaged_data(path, "it has no molecule")
    pieces = HashingVectorizer(
        analyzer="char",
        ngram_range=(1, 3),
        n_features=PIECES,
        lowercase=False,
        alternate_sign=False,
        norm=None,
    )
    return Molecules(np.log1p(pieces.transform(smiles).toarray()).astype(np.float32), labels)
