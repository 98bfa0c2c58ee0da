"""The one thing pyproject.toml cannot say: found packages plus one mapped directory."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[
        *find_packages(include=["rlpost", "rlpost.*"]),
        # Folders that hold only data count as packages too, or setuptools warns.
        *find_namespace_packages(include=["rlpost.*.templates"]),
        "hydra_plugins.rlpost",
        "rlpost.configs",
        *(f"rlpost.configs.{name}" for name in find_namespace_packages("configs")),
    ],
    # In a wheel the YAML tree is rlpost/configs; in a checkout it stays at the root,
    # where people edit it. rlpost/config/search_path.py finds either.
    package_dir={"rlpost.configs": "configs"},
    package_data={"": ["*.yaml", "*.j2", "*.html", "*.css", "*.js", "py.typed"]},
)
