{% include cookiecutter.azureml_sdk ~ "/pipelines.py" %}
