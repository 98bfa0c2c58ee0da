"""Headless Chromium for checks of the report; it is a Debian package, not a Python one."""

import re
import shutil
import subprocess
import tempfile

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=8000",
)


class Browser:
    def __init__(self):
        self.binary = shutil.which("chromium")
        assert self.binary, (
            "chromium is not installed: the report is checked in a real browser; "
            "install the Debian package 'chromium' (apt-get install chromium)"
        )

    def run(self, *flags):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [self.binary, *_FLAGS, f"--user-data-dir={profile}", *flags]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def dump(self, url, *flags):
        """Return the DOM after scripts ran, without the scripts and styles themselves."""
        dom = self.run(*flags, "--dump-dom", url)
        return re.sub(r"<(script|style)\b.*?</\1>", "", dom, flags=re.DOTALL)
