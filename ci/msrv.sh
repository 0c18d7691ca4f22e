#!/usr/bin/env bash
# Builds everything and runs tests with the oldest compiler that Cargo.toml promises: rustup's, if
# it is installed, or else Debian stable's, which has that version, in a root of its own in
# target/msrv (debootstrap, as root). One test program of each part is run, and all with --all; with
# --install none, only the root is made; with other arguments: those of cargo test. The package that
# compares the compiler's own messages is left out: they differ from version to version.
set -euo pipefail
cd "$(dirname "$0")/.."
promised=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
root=$PWD/target/msrv/root
if [ $# = 0 ]; then
    set --
    for program in lock event condition queue joinable connection directory process wait_any \
        values tokio surroundings layout; do
        set -- "$@" --test "$program"
    done
elif [ "$*" = --all ]; then
    set -- --lib --test wordcount
    for program in tests/*.rs tests/*/main.rs; do
        program=$(basename "${program%/main.rs}" .rs)
        case $program in
        explore | loom) ;;
        *) set -- "$@" --test "$program" ;;
        esac
    done
fi

if rustup run "$promised" rustc --version 2>/dev/null; then
    [ "$*" != --install ] || exit 0
    rustup run "$promised" cargo build --locked --all-features --lib --bins --examples
    exec rustup run "$promised" cargo test --locked --all-features "$@"
fi

mkdir -p "$root"
# Another process may be making it.
exec 9>"$root/../lock"
flock 9
if [ ! -e "$root/done" ]; then
    command -v debootstrap >/dev/null ||
        { apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null; }
    rm -rf "$root"
    mkdir -p "$root"
    # Where this machine's own packages come from.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        grep -m1 '/debian/*$')
    debootstrap --variant=minbase --include=rustc,cargo,gcc,libc6-dev trixie "$root" "$mirror" \
        >"$root/../log" ||
        { tail -n 20 "$root/../log"; exit 1; }
    touch "$root/done"
fi
exec 9>&-
[ "$*" != --install ] || exit 0
case $(chroot "$root" rustc --version) in
"rustc $promised".*) chroot "$root" rustc --version ;;
*) echo "Debian's compiler is not $promised any more: $(chroot "$root" rustc --version)"; exit 1 ;;
esac
cargo fetch --locked
mkdir -p "$root"/{src,cargo/registry,target}
export root source=$PWD registry=${CARGO_HOME:-$HOME/.cargo}/registry
export inside='
    cd /src
    cargo build --locked --all-features --lib --bins --examples
    cargo test --locked --all-features "$@"'
unshare --mount --propagation private bash -euc '
    # A root that is mounted, as everywhere else.
    mount --rbind "$root" "$root"
    mount --bind "$source" "$root/src"
    mount --bind "$registry" "$root/cargo/registry"
    mount --rbind /proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/cargo \
        CARGO_TARGET_DIR=/target CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0 \
        CARGO_PROFILE_DEV_DEBUG=0 bash -euc "$inside" msrv "$@"' msrv "$@"
