"""manyloss weighting"""
