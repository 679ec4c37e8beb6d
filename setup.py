"""What a wheel holds beside what pyproject.toml says: every room, and configs/ as the package's own folder."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["swwatch*"]), "swwatch.configs"],
    package_dir={"swwatch.configs": "configs"},
    package_data={
        "swwatch.configs": ["**/*.yaml", "**/*.json"],
        "swwatch.evaluate.report": ["*.html", "*.css", "*.js"],
        "swwatch.serve": ["page/*"],
    },
)
