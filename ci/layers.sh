#!/usr/bin/env bash
# Imports between the rooms of src/ go down this list only, and within a folder they go in no
# circle. Prints each pair of rooms with the number of imports, and fails on one that goes up, and
# on each circle.
set -euo pipefail
cd "$(dirname "$0")/.."
exec perl -e '
    use strict;
    use warnings;
    my @layers = qw(
        lib wait_any directory process values connection queue sync reactor wait memory
    );
    my %depth = map { $layers[$_] => $_ } 0 .. $#layers;
    my (%code, %count, %wrong, %within);
    for my $file (split /\n/, `find src sys/src -name "*.rs" | sort`) {
        # What is compiled for tests alone, or for models, may use everything.
        next if $file =~ m{/tests(/|\.rs)|/model(/|\.rs)};
        open my $in, "<", $file or die "$file: $!\n";
        local $_ = do { local $/; <$in> };
        # Documentation may link to anything.
        s{^\s*//.*$}{}mg;
        s{#\[cfg\(test\)\]\s*mod \w+ \{.*}{}s;
        $code{$file =~ s/\.rs$//r} = $_;
    }
    # Returns the modules that a list in braces names.
    my $names;
    $names = sub {
        my ($base, $list) = @_;
        my ($level, $item, @items) = (0, "");
        for my $part (split /([{},])/, $list) {
            $level += ($part eq "{") - ($part eq "}");
            if ($part eq "," && !$level) { push @items, $item; $item = "" } else { $item .= $part }
        }
        map { m/^\s*(?:self::)?(\w+)/ ? "$base/$1" : () } @items, $item;
    };
    for my $module (sort keys %code) {
        my ($room) = $module =~ m{^src/(\w+)};
        die "$room is no layer: add it to ci/layers.sh\n" if $room && !exists $depth{$room};
        my ($root) = $module =~ m{^(sys/src|src)};
        my ($parent) = $module =~ m{(.*)/};
        my %from = (crate => $root, super => $parent, self => $module);
        while ($code{$module} =~ /\b(crate|super|self)((?:::\w+)*)(?:::(\{(?:[^{}]|(?3))*\}))?/g) {
            my ($at, $list) = ($from{$1}, $3);
            $at = $_ eq "super" ? $at =~ s{/\w+$}{}r : "$at/$_" for $2 =~ /\w+/g;
            for my $named (defined $list ? $names->($at, $list =~ s/^\{|\}$//gr) : $at) {
                $named =~ s{/\w+$}{} until $code{$named} || $named !~ m{/};
                next unless $code{$named};
                # Both as they stand in the folder that they share.
                my @ours = split m{/}, $module;
                my @theirs = split m{/}, $named;
                my @shared;
                push @shared, shift(@ours) and shift @theirs
                    while @ours && @theirs && $ours[0] eq $theirs[0];
                next unless @ours && @theirs;
                my ($one, $other) = map { join "/", @shared, $_ } $ours[0], $theirs[0];
                if ("@shared" eq "src") {
                    my $edge = "$ours[0] -> $theirs[0]";
                    $count{$edge}++;
                    $wrong{"goes up: $edge: $module"}++ if $depth{$theirs[0]} < $depth{$ours[0]};
                } else {
                    $within{$one}{$other}++;
                }
            }
        }
    }
    my (%done, $look);
    $look = sub {
        my ($at, @path) = @_;
        my ($before) = grep { $path[$_] eq $at } 0 .. $#path;
        $wrong{"circle: " . join " -> ", @path[$before .. $#path], $at}++ if defined $before;
        return if $done{$at}++;
        $look->($_, @path, $at) for sort keys %{$within{$at}};
    };
    $look->($_) for sort keys %within;
    my $from = sub { $depth{(split / /, $_[0])[0]} };
    for my $edge (sort { $from->($a) <=> $from->($b) || $a cmp $b } keys %count) {
        printf "%3d  %s\n", $count{$edge}, $edge;
    }
    print "$_\n" for sort keys %wrong;
    exit(%wrong ? 1 : 0);
'
