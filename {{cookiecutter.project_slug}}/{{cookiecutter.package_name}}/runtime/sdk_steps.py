{% include cookiecutter.azureml_sdk ~ "/runtime/sdk_steps.py" %}
