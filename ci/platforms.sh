#!/usr/bin/env bash
# Runs the tests on other platforms: x86-64 and aarch64, glibc and musl, Linux 5.10, 6.1, 6.12 and
# 6.18, each in a machine that QEMU emulates whole, and with this machine's own kernel. Prints
# tables, with the commit and the date of each platform.
#
#   ci/platforms.sh                   everything that is not done yet; takes hours
#   ci/platforms.sh aarch64           only what has this in its name, such as x86_64-musl-6.1
#   ci/platforms.sh --again aarch64 bus queue
#                                     only these programs, built anew, in place of their results
#   ci/platforms.sh --report          prints the table of what is done
#   ci/platforms.sh --page            writes it to docs/platforms.md, as does a run of everything.
#                                     What was not run here stays there as it was
#   ci/platforms.sh --clean           forgets the results, and builds again what has changed
#
# Everything is Debian's: the compiler, both libcs and QEMU are of a root of its own, as in
# ci/msrv.sh, and the kernels of Debian's releases and backports. What is built and run is kept in
# target/platforms. Runs as root. The guest is an initramfs of busybox, the libc and the test
# programs; ci/platforms-guest.sh is its init.
#
# Left out is faults, which ci/faults.sh runs, and the
# models. So are the tests in documentation, which are compiled when they run.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
here=$PWD/target/platforms
root=$here/root
kernels=(5.10 6.1 6.12 6.18)
# A program is killed after so many seconds: with emulation the slowest takes some minutes.
limit=400

platforms() {
    for kernel in "${kernels[@]}" running; do
        for arch in x86_64 aarch64; do
            # Another processor's programs do not run on this machine's kernel.
            [ $kernel = running ] && [ $arch != "$(uname -m)" ] && continue
            for libc in gnu musl; do echo "$arch-$libc-$kernel"; done
        done
    done
}

# Debian's name of a processor.
debian() { case $1 in x86_64) echo amd64 ;; aarch64) echo arm64 ;; esac; }

# A root with the compilers, and what is mounted anywhere else.
install_root() {
    [ ! -e "$root/done" ] || return 0
    echo "installing compilers and QEMU in $root"
    command -v debootstrap >/dev/null ||
        { apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null; }
    rm -rf "$root"
    mkdir -p "$root"
    # Where this machine's own packages come from.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        grep -m1 '/debian/*$')
    debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$mirror" >"$here/log" ||
        { tail -n 20 "$here/log"; exit 1; }
    # Each release has kernels of its own; the backports have the newer ones.
    for release in bullseye bookworm trixie trixie-backports; do
        echo "deb $mirror $release main"
    done >"$root/etc/apt/sources.list"
    printf 'APT::%s;\n' 'Default-Release "trixie"' 'Install-Recommends "false"' \
        'Sandbox::User "root"' >"$root/etc/apt/apt.conf.d/90platforms"
    chroot "$root" dpkg --add-architecture arm64
    chroot "$root" apt-get update -qq
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        rustc cargo rust-src gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
        libstd-rust-dev:arm64 musl-dev:amd64 musl-dev:arm64 \
        qemu-system-x86 qemu-system-arm busybox-static cpio >>"$here/log" ||
        { tail -n 20 "$here/log"; exit 1; }
    touch "$root/done"
}

# Commands in the root, with the sources in /src and the usual mounts. The first argument has
# variables.
inside() {
    mkdir -p "$root"/{src,cargo/registry,target}
    variables=$1 commands=$2 root=$root source=$source \
        registry=${CARGO_HOME:-$HOME/.cargo}/registry \
        unshare --mount --propagation private bash -euc '
        mount --rbind "$root" "$root"
        mount --bind "$source" "$root/src"
        mount --bind "$registry" "$root/cargo/registry"
        mount --rbind /proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/tmp"
        exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            CARGO_HOME=/cargo CARGO_TARGET_DIR=/target CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0 \
            $variables bash -euc "$commands"'
}

# ARCH KERNEL: prints the file of the newest kernel of that version that Debian has.
kernel() {
    local deb name
    deb=$(debian "$1")
    if ! ls "$root"/kernels/"$2"-"$1" >/dev/null 2>&1; then
        name="^linux-image-${2//./\\.}\\..*-cloud-$deb\$"
        name=$(chroot "$root" apt-cache search --names-only "$name" |
            cut -d ' ' -f 1 | sort -V | tail -n 1)
        [ -n "$name" ] || { echo "Debian has no kernel $2 for $1" >&2; return 1; }
        mkdir -p "$root/kernels"
        chroot "$root" bash -euc "
            cd /kernels
            apt-get download -qq '$name:$deb'
            dpkg-deb --fsys-tarfile '$name'_*.deb |
                tar -x -O --wildcards './boot/vmlinuz-*' >$2-$1.new
            mv $2-$1.new $2-$1
            rm '$name'_*.deb"
    fi
    echo "/kernels/$2-$1"
}

# What Debian's gcc and its library for unwinding take for granted, and musl has not. With it
# they are what Rust links as libunwind.
unwind_c='
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stddef.h>

struct Search { char *address; struct dl_find_object *found; };

static int look(struct dl_phdr_info *object, size_t size, void *of) {
    struct Search *search = of;
    char *frames = NULL;
    int is_here = 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        char *begin = (char *) object->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_GNU_EH_FRAME) frames = begin;
        char *end = begin + part->p_memsz;
        if (part->p_type == PT_LOAD && begin <= search->address && search->address < end) {
            is_here = 1;
            search->found->dlfo_map_start = begin;
            search->found->dlfo_map_end = end;
        }
    }
    search->found->dlfo_eh_frame = frames;
    return is_here && frames;
}

int _dl_find_object(void *address, struct dl_find_object *found) {
    struct Search search = { address, found };
    return dl_iterate_phdr(look, &search) ? 0 : -1;
}
'

# ARCH LIBC: builds the test programs, and notes where they are.
build() {
    local triple=$1-unknown-linux-$2 flags= std= variables
    [ ! -e "$here/build/$1-$2" ] || return 0
    echo "building for $triple"
    cargo fetch --locked -q
    variables="CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_OPT_LEVEL=1"
    local linker=$1-linux-gnu-gcc
    if [ "$2" = musl ]; then
        # Debian has no standard library for musl: it is built, too, from the compiler's sources.
        linker=$1-linux-musl-gcc
        # The same for both commands below: otherwise each builds all anew.
        std=-Zbuild-std=std,panic_unwind,test
        flags="-Clink-self-contained=no -Lnative=/usr/lib/$1-linux-musl -Lnative=/unwind/$1"
        variables+=" RUSTC_BOOTSTRAP=1"
        RUSTC_BOOTSTRAP=1 cargo fetch --locked -q \
            --manifest-path "$root"/usr/lib/rustlib/src/rust/library/Cargo.toml
        mkdir -p "$root/unwind/$1"
        printf '%s' "$unwind_c" >"$root/unwind/find.c"
        inside "" "
            cd /unwind/$1
            $1-linux-gnu-gcc -O2 -c ../find.c -o find.o
            rm -f libunwind.a
            eh=\$($1-linux-gnu-gcc -print-file-name=libgcc_eh.a)
            gcc=\$($1-linux-gnu-gcc -print-libgcc-file-name)
            printf '%s\n' 'create libunwind.a' \
                \"addlib \$eh\" \"addlib \$gcc\" 'addmod find.o' save end |
                $1-linux-gnu-ar -M"
    fi
    local upper=${triple^^}
    upper=${upper//-/_}
    variables+=" CARGO_TARGET_${upper}_LINKER=$linker"
    local programs=(--lib --test wordcount)
    for program in tests/*.rs tests/*/main.rs; do
        program=$(basename "${program%/main.rs}" .rs)
        case $program in
        explore | faults | loom) ;;
        *) programs+=(--test "$program") ;;
        esac
    done
    mkdir -p "$here/build"
    git describe --always --dirty --abbrev=7 >"$here/build/$1-$2.commit"
    inside "$variables" "
        cd /src
        [ -z '$flags' ] || export CARGO_TARGET_${upper}_RUSTFLAGS='$flags'
        cargo build --locked --all-features --target $triple $std --examples
        cargo test --locked --all-features --target $triple $std --no-run \
            -p crossproc -p crossproc-sys -p wordcount ${programs[*]}" 2>&1 |
        tee "$here/build/$1-$2.log"
    # Such as: Executable tests/bus.rs (/target/.../deps/bus-0123456789abcdef)
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$here/build/$1-$2.log" >"$here/build/$1-$2.new"
    mv "$here/build/$1-$2.new" "$here/build/$1-$2"
}

# ARCH LIBC: makes the root of the guest.
image() {
    local guest=$root/guests/$1-$2 triple=$1-unknown-linux-$2 deb name
    deb=$(debian "$1")
    [ "$guest.cpio" -ot "$here/build/$1-$2" ] || [ "$guest.cpio" -ot ci/platforms-guest.sh ] ||
        return 0
    rm -rf "$guest"
    mkdir -p "$guest"/{bin,lib,proc,sys,dev,tmp,etc,root,src}
    mkdir -p "$guest/target/$triple/"{tmp,debug/deps,debug/examples}
    chmod 1777 "$guest/tmp"
    mkdir -p "$root/busybox/$deb"
    chroot "$root" bash -euc "cd /busybox/$deb && [ -e bin ] || {
        apt-get download -qq busybox-static:$deb
        dpkg-deb -x busybox-static_*.deb . ; ln -sf usr/bin bin; }"
    cp "$root/busybox/$deb/bin/busybox" "$guest/bin/busybox"
    ln -s busybox "$guest/bin/sh"
    if [ "$2" = gnu ]; then
        # As the compilers' root has them, for either processor.
        mkdir -p "$guest/lib/$1-linux-gnu" "$guest/lib64"
        for name in libc.so.6 libgcc_s.so.1 libm.so.6; do
            cp -L "$root/usr/lib/$1-linux-gnu/$name" "$guest/lib/$1-linux-gnu/"
        done
        case $1 in
        x86_64) cp -L "$root/lib64/ld-linux-x86-64.so.2" "$guest/lib64/" ;;
        aarch64) cp -L "$root/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1" "$guest/lib/" ;;
        esac
    fi
    while read -r program; do
        cp "$root$program" "$guest$program"
        name=$(basename "$program")
        echo "${name%-*} $program"
    done <"$here/build/$1-$2" | sort >"$guest/programs"
    find "$root/target/$triple/debug/examples" -maxdepth 1 -type f -executable ! -name '*-*' \
        -exec cp {} "$guest/target/$triple/debug/examples/" \;
    cp "$root/target/$triple/debug/wordcount" "$guest/target/$triple/debug/"
    git ls-files -z | tar --null -T - -c | tar -x -C "$guest/src"
    printf '%s:/bin/sh\n' root:x:0:0:root:/root nobody:x:65534:65534:nobody:/ >"$guest/etc/passwd"
    cp ci/platforms-guest.sh "$guest/init"
    chmod +x "$guest/init"
    chroot "$root" bash -euc "cd /guests/$1-$2; find . | cpio -o -H newc --quiet" >"$guest.cpio.new"
    mv "$guest.cpio.new" "$guest.cpio"
}

# ARCH LIBC KERNEL [PROGRAM,...]: runs all programs, or some, and keeps what they print.
run() {
    local out=$here/results/$1-$2-$3 file only=${4:-}
    mkdir -p "$here/results"
    if [ "$3" = running ]; then
        # The same files, in namespaces of their own, so that nothing differs but the kernel.
        root=$root/guests/$1-$2 limit=$limit only=$only \
            unshare --mount --net --pid --ipc --fork --propagation private bash -euc '
            mount --rbind "$root" "$root"
            mount --rbind /dev "$root/dev"
            exec chroot "$root" /init "limit=$limit" "only=$only"' \
            </dev/null >"$out.console" 2>&1 || true
    else
        file=$(kernel "$1" "$3")
        local machine console
        case $1 in
        x86_64) machine="qemu-system-x86_64 -machine q35 -cpu max" console=ttyS0 ;;
        # It has the atomic instructions of ARMv8.1, which Rust uses with glibc where there are
        # any; with musl it uses exclusive loads and stores.
        aarch64) machine="qemu-system-aarch64 -machine virt -cpu neoverse-n1" console=ttyAMA0 ;;
        esac
        inside "" "exec $machine -accel tcg,thread=multi -smp 2 -m 4096 -nodefaults -no-reboot \
            -display none -monitor none -serial stdio -kernel $file -initrd /guests/$1-$2.cpio \
            -append 'console=$console quiet panic=-1 limit=$limit only=$only'" \
            </dev/null >"$out.console" 2>&1 || true
    fi
    {
        echo "== commit $(cat "$here/build/$1-$2.commit") $(date -u +%F)"
        tr -d '\r' <"$out.console"
    } >"$out.new"
    grep -q '^== done' "$out.new" || {
        echo "$1-$2-$3 did not come to its end: $out.console"
        tail -n 5 "$out.console"
        return 1
    }
    # The last result of a program counts.
    if [ -n "$only" ]; then cat "$out.new" >>"$out"; else cp "$out.new" "$out"; fi
    rm "$out.new"
}

# FILE...: prints a row for each platform that has one of these results.
rows() {
    awk '
        FNR == 1 { platform = FILENAME; sub(".*/", "", platform) }
        /^== kernel / { kernel[platform] = $3 }
        /^== commit / { of[platform] = $3 " | " $4 }
        /^== done/ { is_whole[platform] = 1 }
        /^test .* \.\.\. FAILED$/ { failed = failed " `" $2 "`" }
        /^== program / {
            last[platform, $3] = $0
            why[platform, $3] = failed
            failed = ""
        }
        END {
            for (key in last) {
                split(key, part, SUBSEP)
                split(last[key], is)
                name = part[1]
                if (is[4] == "left") continue
                all[name]++
                passed[name] += is[4] == "passed"
                tests[name] += is[5]
                of_tests[name] += is[5] + is[6]
                seconds[name] += is[8]
                if (is[4] == "passed") continue
                print name "\tF\t| " name " | " part[2] " | " is[4] " |" why[key] " |"
            }
            for (name in all) {
                printf "%s\tP\t| %s | %s | %s | %d of %d%s |", name, name, kernel[name], of[name],
                    passed[name], all[name], is_whole[name] ? "" : ", stopped"
                printf " %d of %d | %.0f |\n", tests[name], of_tests[name], seconds[name] / 60
            }
        }' "$@" | sort
}

# Prints the tables: what was found here, and, of the platforms that were not run here, what the
# page says.
report() {
    local platform new old=docs/platforms.md
    new=$(ls "$here"/results 2>/dev/null | grep -vE '\.(console|new)$' |
        sed "s,^,$here/results/," | xargs -r -d '\n' \
        bash -c "$(declare -f rows); rows \"\$@\"" rows)
    echo "| platform | kernel | commit | date | programs passed | tests passed | minutes |"
    echo "|---|---|---|---|---|---|---|"
    for platform in $(platforms); do
        grep -P "^$platform\tP" <<<"$new" | cut -f 3 ||
            sed -n '/^<!-- begin/,/^What did not pass/p' $old | grep -F "| $platform |" ||
            echo "| $platform | | | | not run | | |"
    done
    printf '\nWhat did not pass:\n\n| platform | program | result | tests |\n|---|---|---|---|\n'
    for platform in $(platforms); do
        if grep -qP "^$platform\tP" <<<"$new"; then
            grep -P "^$platform\tF" <<<"$new" | cut -f 3 || true
        else
            sed -n '/^What did not pass/,/^<!-- end/p' $old | grep -F "| $platform |" || true
        fi
    done
}

# Puts it in the page, between the two comments.
page() {
    local new=$here/page
    {
        sed '/^<!-- begin/q' docs/platforms.md
        echo
        report
        echo
        sed -n '/^<!-- end/,$p' docs/platforms.md
    } >"$new"
    cp "$new" docs/platforms.md
}

case ${1:-} in
--report) report; exit ;;
--page) page; exit ;;
--clean) rm -rf "$here/results" "$here/build"; exit ;;
esac
mkdir -p "$here"
again=
if [ "${1:-}" = --again ]; then
    again=$(IFS=,; echo "${*:3}")
    set -- "$2"
fi
for platform in $(platforms); do
    # A whole name is this platform alone: 6.1 is in 6.12, too.
    [ $# = 0 ] || [[ $platform == *"$1"* ]] || continue
    ! platforms | grep -x -e "${1:-}" >/dev/null || [ "$platform" = "$1" ] || continue
    [ ! -e "$here/results/$platform" ] || [ -n "$again" ] || continue
    IFS=- read -r arch libc kernel <<<"$platform"
    # One prepares at a time, so that several of these may run at once.
    (
        flock 9
        install_root
        [ -z "$again" ] || rm -f "$here/build/$arch-$libc"
        build "$arch" "$libc"
        image "$arch" "$libc"
    ) 9>"$here/lock"
    echo "running $platform"
    run "$arch" "$libc" "$kernel" "$again"
done
[ $# != 0 ] || page
report
