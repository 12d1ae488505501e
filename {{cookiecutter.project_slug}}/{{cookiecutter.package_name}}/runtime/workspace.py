{% include cookiecutter.azureml_sdk ~ "/runtime/workspace.py" %}
