{#- The code of this file is in templates/SDK/pipelines.py, where SDK is the answer azureml_sdk.
    It is copied without rendering, because it contains placeholders such as ${{inputs.a}},
    which Jinja would replace. The function read_unrendered is defined in the extension of
    this template, this_template_needs_cookiecutter_2_2_3_or_newer.py. -#}
{{ read_unrendered(cookiecutter.azureml_sdk ~ "/pipelines.py") }}
