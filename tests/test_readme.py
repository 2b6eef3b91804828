"""The README's Python examples run as they stand, one after the other."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_readme_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(compile(block, README.name, "exec"), namespace)
    printed = capsys.readouterr().out
    assert "'fou': slice(240, 316, None)" in printed
    assert printed.count("[0.") == 2  # both rows of cross-validated accuracies
    assert "Edge(source='fou__x0', target='fou__x1', kind='common'" in printed
