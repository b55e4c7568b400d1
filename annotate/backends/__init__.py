"""Who answers: one file per backend, all behind `annotate.protocol.Annotator`, found by name through `registry`."""
