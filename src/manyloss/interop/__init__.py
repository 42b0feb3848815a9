"""manyloss interop"""
