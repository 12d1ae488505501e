{% include cookiecutter.azureml_sdk ~ "/runtime/sdk_workspace.py" %}
