"""The packages of the wheel. The top-level configs become data of `diffguard_cli`."""

from setuptools import find_packages, setup

REPORT = [f"report/html/*.{suffix}" for suffix in ("html", "css", "js")]
TYPED = ("diffguard", "lightning_modules", "datamodules")

setup(
    packages=[
        *find_packages(include=[f"{name}*" for name in (*TYPED, "diffguard_cli")]),
        "diffguard_cli.configs",
    ],
    package_dir={"diffguard_cli.configs": "configs"},
    package_data={
        **{name: ["py.typed"] for name in TYPED},
        "diffguard": ["py.typed", "pretrained/**/*", *REPORT],
        "diffguard_cli.configs": ["*.yaml"],
    },
)
