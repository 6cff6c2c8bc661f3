#!/bin/sh
# Builds the function in the current folder into a program at $1. KILN_HANDLER
# may name the package's folder or one of its files; the root is the default.
set -e

out=$1
package=${KILN_HANDLER%%:*}
case $package in
*.go) package=$(dirname "$package") ;;
esac
package=./${package#./}
package=${package%/.}

if [ ! -f go.mod ]; then
	go mod init function
	go mod tidy
elif [ ! -f go.sum ] && [ ! -d vendor ]; then
	# Without sums the versions of go.mod are looked up now.
	export GOFLAGS="$GOFLAGS -mod=mod"
fi

name=$(go list -f '{{.Name}}' "$package")
if [ "$name" = main ]; then
	echo "kiln: the function is a package main; write package function with func Handle(http.ResponseWriter, *http.Request)" >&2
	exit 1
fi
if [ "$KILN_TEST" = 1 ]; then
	# go vet would look at all that the function imports first, which takes minutes
	# where that was never compiled.
	go test -vet=off ./...
fi

import=$(go list -f '{{.ImportPath}}' "$package")
module=$(go list -m)
around=internal/kilnruntime
mkdir -p "$around"
cp -r /kiln/shared/host "$around/host"
sed -e "s#KILN_FUNCTION_PACKAGE#$import#" -e "s#KILN_HOST_PACKAGE#$module/$around/host#" /kiln/runtime/main.go.in >"$around/main.go"
go build -trimpath -ldflags="-s -w" -o "$out" "./$around"
