"""manyloss adversarial"""
