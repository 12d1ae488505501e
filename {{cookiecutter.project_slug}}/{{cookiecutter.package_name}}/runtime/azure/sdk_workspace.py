{% include cookiecutter.azureml_sdk ~ "/runtime/azure/sdk_workspace.py" %}
