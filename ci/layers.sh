#!/usr/bin/env bash
# Imports between the rooms of src/ go down this list only. Prints each pair of rooms with the
# number of imports, and fails on one that goes up.
set -euo pipefail
cd "$(dirname "$0")/.."
exec perl -e '
    use strict;
    use warnings;
    my @layers = qw(
        lib wait_any directory process values connection queue sync reactor wait memory
    );
    my %depth = map { $layers[$_] => $_ } 0 .. $#layers;
    my (%count, %upward);
    for my $file (split /\n/, `find src -name "*.rs" | sort`) {
        my ($room) = $file =~ m{^src/(\w+)};
        die "$file: $room is no layer: add it to ci/layers.sh\n" unless exists $depth{$room};
        # What is compiled for tests alone may use everything.
        next if $file =~ m{/tests(/|\.rs)};
        open my $in, "<", $file or die "$file: $!\n";
        my $code = do { local $/; <$in> };
        # Documentation may link to anything.
        $code =~ s{^\s*//.*$}{}mg;
        # `use crate::{a::b, c::d}` names several rooms.
        my @named = $code =~ /\bcrate::(\w+)/g;
        push @named, /(?:^|,)\s*(\w+)/g for $code =~ /\bcrate::\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}/g;
        for my $named (@named) {
            # Everything else at the root of the crate is an item that some room exports.
            next if !exists $depth{$named} || $named eq $room;
            $count{"$room -> $named"}++;
            push @{$upward{"$room -> $named"}}, $file if $depth{$named} < $depth{$room};
        }
    }
    my $from = sub { $depth{(split / /, $_[0])[0]} };
    for my $edge (sort { $from->($a) <=> $from->($b) || $a cmp $b } keys %count) {
        printf "%3d  %s\n", $count{$edge}, $edge;
    }
    for my $edge (sort keys %upward) {
        print "goes up: $edge: @{$upward{$edge}}\n";
    }
    exit(%upward ? 1 : 0);
'
