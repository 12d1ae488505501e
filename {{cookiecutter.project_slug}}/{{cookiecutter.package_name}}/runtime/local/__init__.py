"""Run pipelines on this machine, as Azure ML would."""
