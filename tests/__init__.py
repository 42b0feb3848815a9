"""Tests of manyloss. They mirror src; `properties` and `reference` are described in their own files."""
