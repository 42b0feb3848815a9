"""manyloss robustness"""
