"""The lab's data sets: `manyloss data get NAME`, and one loader per file."""

from manyloss.lab.datasets.download import available, default_data_root, get

__all__ = ["available", "default_data_root", "get"]
