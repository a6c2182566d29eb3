"""The skeleton of CONTRIBUTING.md, as a reader would copy it."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
(CODE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
REGISTERED = CODE + "\n\nimport fedem_jax as fj\n\nfj.register(Skeleton, skeleton)\n"
"""In a file of its own, with the lines that register it."""
