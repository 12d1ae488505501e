{% include cookiecutter.azureml_sdk ~ "/tests/conftest.py" %}
