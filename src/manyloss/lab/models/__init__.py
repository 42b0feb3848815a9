"""manyloss lab/models"""
