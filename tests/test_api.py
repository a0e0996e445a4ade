"""The names that `import pysr` gives."""

import subprocess
import sys

ROOMS = "adapt blur degrade engines evaluate inspection nets ops pictures train video".split()


def test_rooms_are_opened_when_they_are_asked_for():
    script = f"""
import sys, pysr
assert "torch" not in sys.modules
assert set(dir(pysr)) >= {{*{ROOMS}, "load", "Upscaler", "Upscaled"}}
for room in {ROOMS}:
    assert getattr(pysr, room).__name__ == "pysr." + room
"""
    subprocess.run([sys.executable, "-c", script], check=True)
