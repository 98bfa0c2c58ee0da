#!/bin/sh
# Chromium draws the run report in one test. Installed on Debian when we may; otherwise said.
set -u
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "rlpost set-up: installing Debian's chromium for the report test"
    if apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium >/dev/null; then
        exit 0
    fi
fi
echo "rlpost set-up: Chromium is missing; the test that draws report.html in it needs the" \
    "package chromium (Debian: apt-get install chromium)." >&2
exit 0
