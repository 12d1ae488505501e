{{ read_unrendered(cookiecutter.azureml_sdk ~ "/runtime/azure/sdk_steps.py") }}
