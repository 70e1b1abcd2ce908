#!/usr/bin/env bash
# Writes the root file system of an image: one program, stripped, with what it needs to run and nothing else.
#
#   deploy/images/rootfs.sh PROGRAM ROOT
#
# ROOT gets usr/bin/PROGRAM, the closure of its shared libraries as ldd finds them, the certificates of the usual
# authorities, the user conclave (65532), and an empty tmp and var/lib/conclave. No shell, no packages. Called by the
# container files inside their build stage, and by assemble.sh on the build tree, so that both make the same image.
set -euo pipefail
if [ $# != 2 ]; then
  echo "usage: deploy/images/rootfs.sh PROGRAM ROOT" >&2
  exit 2
fi
program=$1
root=$2
die() { echo "error: $*" >&2; exit 1; }
[ -x "$program" ] || die "$program is no program: build it first"
[ ! -e "$root" ] || die "$root exists: give a folder that does not"
# Those of the package: what this machine trusts besides is its own affair.
certificates=/usr/share/ca-certificates/mozilla
[ -d "$certificates" ] || die "$certificates is missing: install the package ca-certificates"

libraries=$(ldd "$program" 2>&1) || die "$program is no program of this machine with shared libraries: $libraries"
if grep -q 'not found' <<<"$libraries"; then
  die "$program needs libraries that are not installed: $(awk '/not found/ { print $1 }' <<<"$libraries" | xargs)"
fi

umask 022
mkdir -p "$root"/{dev,etc/ssl/certs,proc,sys,tmp,usr/{bin,lib,lib64},var/lib/conclave}
ln -s usr/bin "$root"/bin
ln -s usr/lib "$root"/lib
ln -s usr/lib64 "$root"/lib64
chmod 1777 "$root"/tmp
chmod 0700 "$root"/var/lib/conclave
# As root, in a container build, the folder is given its owner here; the assembled images name the owner in the archive.
if [ "$(id -u)" = 0 ]; then chown 65532:65532 "$root"/var/lib/conclave; fi

cat >"$root"/etc/passwd <<'PASSWD'
root:x:0:0:root:/:/usr/sbin/nologin
conclave:x:65532:65532:Conclave:/var/lib/conclave:/usr/sbin/nologin
PASSWD
cat >"$root"/etc/group <<'GROUP'
root:x:0:
conclave:x:65532:
GROUP
echo "hosts: files dns" >"$root"/etc/nsswitch.conf
LC_ALL=C
cat "$certificates"/*.crt >"$root"/etc/ssl/certs/ca-certificates.crt

strip --strip-unneeded -o "$root/usr/bin/$(basename "$program")" "$program"
chmod 0755 "$root/usr/bin/$(basename "$program")"

# "libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x...)": all go where libc is, since the loader looks there without
# configuration; "/lib64/ld-linux-x86-64.so.2 (0x...)", the loader, stays where programs look for it.
folder=$(dirname "$(awk '$1 ~ /^libc\.so/ { print $3 }' <<<"$libraries")")
loader=$(awk '$1 ~ /^\// { print $1 }' <<<"$libraries")
mapfile -t files < <(awk '$2 == "=>" { print $3 }' <<<"$libraries")
mkdir -p "$root$folder"
for file in "${files[@]}"; do install -m 0755 "$file" "$root$folder/${file##*/}"; done
install -D -m 0755 "$loader" "$root$loader"

"$(dirname "$0")/../copyrights.sh" "$root/usr/share/doc" "${files[@]}" "$loader"
install -m 0644 -D -t "$root/usr/share/doc/conclave" "$(dirname "$0")"/../../{LICENSE,NOTICE,THIRD_PARTY.md}
