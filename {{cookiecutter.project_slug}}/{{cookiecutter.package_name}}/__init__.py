"""Training and batch-scoring pipelines on Azure Machine Learning.

Yours, to read and change:

    pipelines.py  the pipelines, step by step, and the one table that lists them
    settings.py   what settings.yml holds

`runtime/` is what runs them, here and on Azure ML; `__main__.py` is its command line.
"""

import os
import warnings

# The Azure ML SDK posts usage data unless this is set before it is imported, and MLflow
# does too. To turn it on, set them to false in the environment.
os.environ.setdefault("HBI_WORKSPACE_JOB", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The SDK cannot be imported without a HOME; a service or a container may have none.
os.environ.setdefault("HOME", os.path.expanduser("~"))
# azure-ai-ml imports a progress bar, which warns in a notebook that cannot show it.
warnings.filterwarnings("ignore", "IProgress not found")
