"""Aggregators: many gradients become one."""

from manyloss.aggregation._base import Aggregator
from manyloss.aggregation.db_mtl import DBMTL
from manyloss.aggregation.graddrop import GradDrop
from manyloss.aggregation.sum import Sum

__all__ = ["Aggregator", "DBMTL", "GradDrop", "Sum"]
