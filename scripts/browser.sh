#!/bin/sh
# The pages of `detcam report` are tested in a real Chromium. Where there is none, get the system's package if that
# takes no question; otherwise those tests are skipped and say so.
if command -v chromium >/dev/null 2>&1; then
    exit 0
fi
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install --yes --no-install-recommends chromium; } >/dev/null 2>&1
fi
command -v chromium >/dev/null 2>&1 || echo "no chromium, and none could be installed: the tests of pages in a browser are skipped" >&2
exit 0
