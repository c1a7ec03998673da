#!/bin/bash
# Builds the server of Kubeflow Model Registry from the Go module proxy and runs it, for clusters that reach no image
# registry. It keeps what it is told in a MySQL or MariaDB, in a database that is there.
#   model_registry.sh FOLDER DSN HOST PORT     FOLDER: where it builds; DSN: as 'root:@tcp(10.0.0.1:3306)/model_registry'
set -euo pipefail
VERSION=0.3.0
M=github.com/kubeflow/model-registry
mkdir -p "$1/src" && cd "$1/src"
if [ ! -x ../model-registry ]; then
  # The checksum database lacks this version. These are the sums of the project's own tag v0.3.0, and not skipped.
  printf '%s\n' "$M v$VERSION h1:03w2GX14Y/psOqrF2mWwxKIUxWekJ20igQQvbCKLTas=" \
    "$M v$VERSION/go.mod h1:e4xz2RCQRlT/qOBSShmp9OxqhzgLQ6lrMLL4VMRq9xc=" \
    "$M/pkg/openapi v$VERSION h1:ioNr/dm37J6eW63DQAcIHIPZ8zDF4v5GJwMHfs9doUM=" \
    "$M/pkg/openapi v$VERSION/go.mod h1:0V0wF5hGlLDSNS+on0MTnEOFiubfVYNc7QhuthKBu+8=" > go.sum
  printf 'module build\n\ngo 1.24.4\n\nrequire %s v%s\n' $M $VERSION > go.mod
  SOURCE=$(go mod download -json $M@v$VERSION | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  {
    echo "module build"
    sed -e 1d -e "s#=> ./pkg/openapi#=> $M/pkg/openapi v$VERSION#" "$SOURCE/go.mod"
    echo "require $M v$VERSION"
  } > go.mod
  cat "$SOURCE/go.sum" >> go.sum
  CGO_ENABLED=0 nice -n 10 go build -p 1 -mod=mod -trimpath -ldflags "-s -w" -o ../model-registry $M
fi
exec ../model-registry proxy --hostname "$3" --port "$4" \
  --embedmd-database-type mysql --embedmd-database-dsn "$2?charset=utf8mb4"
