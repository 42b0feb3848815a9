"""manyloss lab/datasets"""
