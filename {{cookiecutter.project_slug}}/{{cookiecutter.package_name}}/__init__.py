"""Training and batch-scoring pipelines on Azure Machine Learning.

Files to read and change:

    pipelines.py  the pipelines and their steps
    settings.py   the settings that settings.yml may hold

`runtime/` runs the pipelines on this machine and on Azure ML, and `__main__.py` is the
command line. You do not need to open them.
"""

import os
import warnings

# The SDK and MLflow send usage data to their makers, unless these variables are set before
# the packages are imported. To allow it, set both variables to "false" in the environment.
os.environ.setdefault("HBI_WORKSPACE_JOB", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# The SDK cannot be imported without HOME, which some services and containers do not set.
os.environ.setdefault("HOME", os.path.expanduser("~"))

# In a notebook, azure-ai-ml imports a package for progress bars. This package warns if the
# notebook cannot show a bar.
warnings.filterwarnings("ignore", "IProgress not found")
