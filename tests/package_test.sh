#!/usr/bin/env bash
# The .deb: made by cpack in BUILD, it holds what a service needs, and the binary inside finds its model.
#   package_test.sh BUILD
set -euo pipefail
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cpack --config "$build/CPackConfig.cmake" -B "$work" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
dpkg-deb -x "$work"/*.deb "$work/root"
for path in usr/bin/kvasir usr/lib/systemd/system/kvasir.service etc/kvasir/kvasir.toml \
            usr/share/man/man1/kvasir.1 usr/share/kvasir/models/nano/model.safetensors usr/share/doc/kvasir/api.md; do
  [[ -e $work/root/$path ]] || { echo "package: no $path"; exit 1; }
done
dpkg-deb -f "$work"/*.deb Depends | grep -q libc6
"$work/root/usr/bin/kvasir" serve --config "$work/root/etc/kvasir/kvasir.toml" --check-config | grep -q 'dir = "/var/cache/kvasir"'
"$work/root/usr/bin/kvasir" generate -p Hello --max-tokens 2 >/dev/null 2>&1
