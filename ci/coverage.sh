#!/usr/bin/env bash
# Which lines of src/ and sys/src/ the tests run, by the compiler's own counters: how many of each
# file and of all, and which not. The lists are in target/coverage/: `lines.txt`, `uncovered.txt`,
# and `report.txt`, which is the code with its counts.
# With names of test programs (`lib`, `sys`, or a file or folder in tests/, without .rs): runs these
# alone, and counts what the others ran before. With --fresh: forgets that first. With --report:
# runs nothing.
# Exits with 1 if a program fails, or if fewer lines are covered than `least` says.
#
# The counters are in a mapped file, so that what a process ran counts however it ended, and what a
# forked child ran counts for its parent. What counts is a line with at least one count that is not
# zero, but for `#[cfg(test)]` modules. Models are not built here.
#
# Left out, because counters are in their way or because they are other builds:
# - kill: whatever an instruction writes, others see, and the counters are such a place.
# - no_system_calls: does a million operations, which take long with counters.
# - faults: makes any system call fail, and the counters make some.
# - loom, explore: the state machines in a model of the kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
least=${COVERAGE_LEAST:-98}
left_out=' explore faults kill loom no_system_calls '
root=$PWD folder=$PWD/target/coverage
host=$(rustc -vV | sed -n 's/^host: //p')
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')

# Prints where a tool of the compiler's own LLVM is: of rustup's component, or of a package.
tool() {
    local place
    for place in "$(rustc --print sysroot)/lib/rustlib/$host/bin" "/usr/lib/llvm-$major/bin"; do
        place+=/$1
        [ -x "$place" ] && echo "$place" && return
    done
    return 1
}
if ! tool llvm-cov >/dev/null; then
    rustup component add llvm-tools 2>/dev/null || {
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "llvm-$major" >/dev/null
    }
fi
profdata=$(tool llvm-profdata) cov=$(tool llvm-cov)

report=
case ${1:-} in
--fresh) rm -rf "$folder/profiles"; shift ;;
--report) report=only; shift ;;
esac
mkdir -p "$folder"
only=" $* "
[ $# != 0 ] || [ -n "$report" ] || rm -rf "$folder/profiles"

# The counters are for the members of the workspace alone.
cat >"$folder/rustc.sh" <<'END'
#!/bin/sh
exec "$@" -C instrument-coverage -C llvm-args=-runtime-counter-relocation
END
chmod +x "$folder/rustc.sh"
export CARGO_TARGET_DIR=$folder/build RUSTC_WORKSPACE_WRAPPER=$folder/rustc.sh
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0
# The bounds of time are of a program that counts nothing.
export CROSSPROC_PATIENCE=150 CROSSPROC_SLOWNESS=4
export LLVM_PROFILE_FILE=$folder/building/%p.profraw

targets=(--lib)
for program in tests/*.rs tests/*/main.rs; do
    program=$(basename "${program%/main.rs}" .rs)
    case $left_out in *" $program "*) ;; *) targets+=(--test "$program") ;; esac
done
targets+=(--test wordcount)
cargo test --locked --all-features -p crossproc -p crossproc-sys -p wordcount "${targets[@]}" \
    --no-run 2>&1 | tee "$folder/build.txt" | grep -v '^ *Executable' || true
grep -q Finished "$folder/build.txt"
# Programs that tests start.
cargo build --quiet --locked --all-features --examples
rm -rf "$folder/building"

# Each program and the folder that cargo runs it in.
programs() { bash ci/programs.sh "$folder/build.txt"; }
failed=
if [ -z "$report" ]; then
    while read -r name program; do
        case $only in '  ' | *" $name "*) ;; *) continue ;; esac
        rm -rf "${folder:?}/profiles/$name"
        mkdir -p "$folder/profiles/$name"
        began=$SECONDS
        (
            [ "$name" = sys ] && cd sys
            export CARGO_MANIFEST_DIR=$PWD
            # One file for each process that is started; %c: mapped.
            LLVM_PROFILE_FILE=$folder/profiles/$name/%p%c.profraw exec "$root/$program"
        ) >"$folder/profiles/$name.txt" 2>&1 </dev/null || {
            failed+=" $name"
            tail -n 30 "$folder/profiles/$name.txt"
        }
        # Of those that were started without this environment.
        find . sys -maxdepth 1 -name 'default_*.profraw' -exec mv -t "$folder/profiles/$name" {} +
        printf '%s: %s s\n' "$name" "$((SECONDS - began))"
    done < <(programs)
fi

# A process that was killed before it had set its file up has left one that is not whole.
"$profdata" merge --sparse --failure-mode=warn --output="$folder/all.profdata" \
    $(find "$folder/profiles" -name '*.profraw' -size +0) 2>"$folder/merge.txt" ||
    { cat "$folder/merge.txt"; exit 1; }
objects=()
while read -r _ program; do objects+=(--object "$program"); done < <(programs)
mapfile -t sources < <(git ls-files 'src/*.rs' 'sys/src/*.rs' | sed "s|^|$PWD/|")
of=(--instr-profile="$folder/all.profdata" "${objects[@]}" --sources "${sources[@]}")
"$cov" show --show-instantiations=false "${of[@]}" >"$folder/report.txt"
"$cov" export --format=lcov --skip-expansions "${of[@]}" >"$folder/all.lcov"

perl - "$PWD" "$folder" "$least" <<'END'
use strict;
use warnings;
my ($root, $folder, $least) = @ARGV;
# The lines of `#[cfg(test)]` modules: to the brace that closes them, or a whole file.
my (%is_test, %is_test_file);
sub look_at {
    my ($file) = @_;
    open my $in, '<', $file or die "$file: $!";
    my @lines = <$in>;
    for my $at (0 .. $#lines) {
        next unless $lines[$at] =~ /^(\s*)#\[cfg\((?:all\()?test\b/;
        my $indent = $1;
        my $item = $at + 1;
        $item++ while $lines[$item] =~ /^\s*#\[/;
        if ($lines[$item] =~ /^\s*(?:pub(?:\(.*?\))? )?mod (\w+);/) {
            my $module = $1;
            (my $of = $file) =~ s/(?:\/(?:mod|lib))?\.rs$//;
            $is_test_file{"$of/$module"} = 1;
            next;
        }
        my $end = $item;
        $end++ until $end >= $#lines or $lines[$end] =~ /^$indent\}/ or
            $lines[$end] =~ /;$/ && $end == $item;
        $is_test{$file}{$_ + 1} = 1 for $at .. $end;
    }
}
my (%count, $file);
open my $lcov, '<', "$folder/all.lcov" or die $!;
while (<$lcov>) {
    if (/^SF:(.*)/) { $file = $1; look_at($file) unless $count{$file}; $count{$file} ||= {}; }
    if (/^DA:(\d+),(\d+)/) { $count{$file}{$1} = $2 if $2 > ($count{$file}{$1} // -1); }
}
open my $lines, '>', "$folder/lines.txt" or die $!;
open my $uncovered, '>', "$folder/uncovered.txt" or die $!;
my ($all, $hit) = (0, 0);
for my $file (sort keys %count) {
    next if grep { $file eq "$_.rs" or index($file, "$_/") == 0 } keys %is_test_file;
    my @of = grep { !$is_test{$file}{$_} } sort { $a <=> $b } keys %{$count{$file}};
    my @missed = grep { !$count{$file}{$_} } @of;
    next unless @of;
    $all += @of;
    $hit += @of - @missed;
    (my $name = $file) =~ s/^\Q$root\E\///;
    my ($run, $all) = (@of - @missed, scalar @of);
    my $line = sprintf "%-36s %5d of %5d  %5.1f %%\n", $name, $run, $all, 100 * $run / $all;
    print $lines $line;
    print $line if @missed;
    next unless @missed;
    open my $in, '<', $file or die $!;
    my @text = <$in>;
    print $uncovered "$name\n", map { sprintf "%6d  %s", $_, $text[$_ - 1] } @missed;
}
my $share = 100 * $hit / $all;
my $total = sprintf "%-36s %5d of %5d  %5.1f %%\n", 'all', $hit, $all, $share;
print $lines $total;
print $total, "Lines that were not run: target/coverage/uncovered.txt; see CONTRIBUTING.md\n";
exit($share < $least);
END
[ -z "$failed" ] || { printf 'failed:%s\n' "$failed"; exit 1; }
