#!/bin/bash
# Programs with one bug each, and the exhaustive sweep: does Moat find each bug, and say rightly what and where it is?
set -u
cd "$(dirname "$0")/../.." || exit 1
exec /usr/bin/python3 tests/detect/detect.py "${MOAT_BUILD:-build}" "$@"
