"""manyloss """
