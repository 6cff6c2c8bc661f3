#!/bin/sh
# Starts a cell: hands the load token to the runtime on descriptor 3 and takes
# it out of the environment, also out of what /proc/1/environ shows.
if [ -z "$KILN_CELL_TOKEN" ]; then
	echo "kiln: a cell needs KILN_CELL_TOKEN" >&2
	exit 2
fi
exec 3<<EOF
$KILN_CELL_TOKEN
EOF
unset KILN_CELL_TOKEN
exec "$@"
