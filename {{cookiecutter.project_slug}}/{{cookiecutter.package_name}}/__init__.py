"""Training and batch-scoring pipelines on Azure Machine Learning.

You read and change:

    pipelines.py  the pipelines and their steps
    settings.py   the settings that settings.yml may hold

You need not open `runtime/`, which runs the pipelines on this machine and on Azure ML, or
`__main__.py`, its command line.
"""

import os
import warnings

# The SDK and MLflow send usage data unless these variables are set before they are imported.
# To allow it, set both to "false" in the environment.
os.environ.setdefault("HBI_WORKSPACE_JOB", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# The SDK cannot be imported without HOME, which some services and containers do not set.
os.environ.setdefault("HOME", os.path.expanduser("~"))

# In a notebook, azure-ai-ml imports a progress bar that warns if it cannot be shown.
warnings.filterwarnings("ignore", "IProgress not found")
