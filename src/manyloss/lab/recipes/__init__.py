"""manyloss lab/recipes"""
