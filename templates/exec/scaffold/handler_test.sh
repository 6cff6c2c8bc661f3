#!/bin/sh
# Run with: sh handler_test.sh

cd "$(dirname "$0")" || exit 1

check() {
	if [ "$1" != "$2" ]; then
		printf 'got %s, want %s\n' "$1" "$2" >&2
		exit 1
	fi
}

check "$(QUERY_STRING=name=Ada ./handler </dev/null | tail -n 1)" "Hello, Ada!"
check "$(printf Ada | CONTENT_LENGTH=3 ./handler | tail -n 1)" "Hello, Ada!"
check "$(./handler </dev/null | tail -n 1)" "Hello, world!"
echo ok
