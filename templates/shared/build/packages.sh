#!/bin/sh
# Installs the Debian packages that function.yaml asks for.
set -e
[ -n "$*" ] || exit 0
apt-get update
apt-get install -y --no-install-recommends "$@"
rm -rf /var/lib/apt/lists/*
