"""manyloss lab"""
