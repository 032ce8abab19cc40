#!/usr/bin/env bash
# Makes build/moongate-image.tar, a docker archive named moongate:dev, without a registry:
#   1. a Debian 13 (trixie) from the distribution's packages (debootstrap), kept outside of the tree,
#   2. in it, the packages that building needs, and a build of the current commit,
#   3. an image of the program, its Lua files and the shared libraries that they load, nothing else: no shell, no package manager.
# Needs root, debootstrap, buildah and setcap; `make image` installs them.
set -euo pipefail
cd "$(dirname "$0")/../../.."
suite=trixie
name=moongate:dev
archive=build/moongate-image.tar
cache=${XDG_CACHE_HOME:-$HOME/.cache}/moongate/image
packages="gcc make pkg-config git libc6-dev libuv1-dev libssl-dev libluajit-5.1-dev lua-cjson libpcre2-dev libc-ares-dev libyaml-dev libcurl4-openssl-dev
  libcrypt-dev libllhttp-dev libcap2-bin ca-certificates"

say() { printf '== %s\n' "$*"; }
[ "$(id -u)" = 0 ] || { echo "make image: needs root (debootstrap, chroot, file capabilities)" >&2; exit 1; }
for tool in debootstrap buildah setcap; do command -v "$tool" >/dev/null || { echo "make image: $tool is missing" >&2; exit 1; }; done
mkdir -p "$cache" build

work=$(mktemp -d /var/tmp/moongate-image.XXXXXX)
cleanup() {
  umount -l "$work/builder/proc" 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT

key=$(echo "$suite $packages" | sha256sum | cut -c1-16)
builder=$cache/builder-$key.tar
if [ ! -f "$builder" ]; then
  say "a Debian $suite with what building needs (once, some minutes)"
  debootstrap --variant=minbase --include="$(echo $packages | tr -s ' \n' ',')" "$suite" "$work/builder" >"$cache/debootstrap.log" 2>&1 ||
    { tail -n 20 "$cache/debootstrap.log" >&2; exit 1; }
  tar -C "$work/builder" -cf "$builder.part" . && mv "$builder.part" "$builder"
else
  mkdir "$work/builder"
  tar -C "$work/builder" -xf "$builder"
fi

say "building $(git describe --always --dirty)"
mount -t proc proc "$work/builder/proc"
mkdir -p "$work/builder/src/build"
git archive HEAD | tar -C "$work/builder/src" -xf -
touch "$work/builder/src/build/.deps" # what the build stage needs is there; the test tools are not
version=$(git describe --tags --always --dirty)
chroot "$work/builder" make -C /src --no-print-directory -s -j"$(nproc)" VERSION="$version" PREFIX=/usr build
chroot "$work/builder" make -C /src --no-print-directory -s VERSION="$version" PREFIX=/usr DESTDIR=/out install
rm -rf "$work/builder/out/usr/lib/moongate" # core.so is for specs
chroot "$work/builder" strip /out/usr/bin/moongate

say "gathering what it loads"
root=$work/builder/out
install -d -m 755 "$root/etc" "$root/tmp" "$root/etc/ssl/certs"
chmod 1777 "$root/tmp"
printf 'root:x:0:0:root:/:/sbin/nologin\nwww-data:x:101:82:moongate:/:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nwww-data:x:82:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
cp "$work/builder/etc/ssl/certs/ca-certificates.crt" "$root/etc/ssl/certs/"
cjson=$(chroot "$work/builder" sh -c 'ls /usr/lib/*/lua/5.1/cjson.so')
{
  echo "$cjson"
  chroot "$work/builder" sh -c "ldd /out/usr/bin/moongate $cjson" | grep -oE '/[^ ]+' | grep -vE ':$|^/out' | sort -u
} | while read -r file; do
  install -D -m 755 "$work/builder/$(chroot "$work/builder" readlink -f "$file")" "$root$file"
done
# ldd names the loader by its path of the ABI; /lib is /usr/lib on Debian, here too
ln -sfn /usr/bin/moongate "$root/nginx-ingress-controller" # what existing Deployments start
ln -sfn /usr/bin/moongate "$root/wait-shutdown"            # and call before they stop
setcap cap_net_bind_service=+ep "$root/usr/bin/moongate"

say "writing $archive"
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
container=$(buildah --root "$work/storage" --runroot "$work/run" from scratch)
b() { buildah --root "$work/storage" --runroot "$work/run" "$@"; }
b copy -q "$container" "$root" / >/dev/null
b config --user 101 --entrypoint '[]' --cmd '/nginx-ingress-controller' --port 80 --port 443 --port 8443 --port 10254 --workingdir / \
  --stop-signal SIGTERM --label org.opencontainers.image.title=moongate --label "org.opencontainers.image.version=$version" \
  --label org.opencontainers.image.licenses=Apache-2.0 "$container"
b commit -q "$container" "$name" >/dev/null
rm -f "$archive"
b push -q "$name" "docker-archive:$archive:$name"
say "$archive: $(du -h "$archive" | cut -f1) ($(du -sh "$root" | cut -f1) unpacked)"
