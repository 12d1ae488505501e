{% include cookiecutter.azureml_sdk ~ "/runtime/connection.py" %}
