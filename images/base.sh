#!/bin/sh
# Bases with Python 3.11 out of Debian's packages, for builders that reach no registry; the second one with a compiler:
#   images/base.sh localhost/python:3.11
#   images/base.sh localhost/python-build:3.11 gcc,libc6-dev,python3-dev,python3-venv
# Needs mmdebstrap, and podman, docker or buildah; MIRROR and SECURITY name other mirrors.
set -eu
name=${1:?images/base.sh NAME [PACKAGES]}
builder=${BUILDER:-$(command -v podman || command -v buildah || command -v docker)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# usrmerge brings all of Perl (50 MB) for what usr-is-merged says as well.
pin='Package: usrmerge\nPin: release *\nPin-Priority: -1\n'
mmdebstrap --variant=essential --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged,ca-certificates,libstdc++6,python3${2:+,$2} \
  --setup-hook="printf '$pin' > \"\$1\"/etc/apt/preferences.d/base" --customize-hook='rm "$1"/etc/apt/preferences.d/base' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/*/gconv/*' bookworm "$folder/rootfs.tar" \
  "deb ${MIRROR:-http://deb.debian.org/debian} bookworm main" \
  "deb ${MIRROR:-http://deb.debian.org/debian} bookworm-updates main" \
  "deb ${SECURITY:-http://deb.debian.org/debian-security} bookworm-security main"
cat > "$folder/Containerfile" <<'END'
FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
CMD ["python3"]
END
"$builder" build -f "$folder/Containerfile" -t "$name" "$folder"
