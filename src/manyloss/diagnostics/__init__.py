"""manyloss diagnostics"""
