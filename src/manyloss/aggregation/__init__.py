"""manyloss aggregation"""
