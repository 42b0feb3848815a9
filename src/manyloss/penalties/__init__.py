"""manyloss penalties"""
