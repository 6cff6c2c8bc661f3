#!/bin/sh
# In a folder without a library: compiles its C sources to one. *_test.c are
# programs of their own, run when tests are asked for.
set -e

if [ -z "$(ls ./*.so 2>/dev/null)" ]; then
	sources=$(ls ./*.c 2>/dev/null | grep -v '_test\.c$') || {
		echo "kiln: there is neither a *.so nor a *.c file" >&2
		exit 1
	}
	# shellcheck disable=SC2086 # words are wanted
	gcc $CFLAGS -Wall -shared -fPIC -o function.so $sources
	if [ "$KILN_TEST" = 1 ]; then
		for test in ./*_test.c; do
			[ -f "$test" ] || continue
			# shellcheck disable=SC2086
			gcc $CFLAGS -Wall -o /tmp/kiln-test "$test" $sources
			/tmp/kiln-test
		done
	fi
fi
