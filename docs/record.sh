#!/bin/sh
# Records the demo in docs/demo.cast, and draws one moment of it in docs/demo.svg. Needs npx.
set -eu

cd "$(dirname "$0")/.."
PLUGIN=$(sh packaging/build.sh)
SIMULATOR=$(sh tests/support/simulator-bin.sh)
export PLUGIN SIMULATOR
at=$(DEMO_PAUSE=2 python3 docs/record.py --at 'Fetch the same token' docs/demo.cast sh docs/demo.sh)
npx --yes svg-term-cli@2.1.1 --in docs/demo.cast --out docs/demo.svg --at "$at" --no-cursor --window
