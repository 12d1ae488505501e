{% include cookiecutter.azureml_sdk ~ "/tests/test_pipelines.py" %}
