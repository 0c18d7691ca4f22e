#!/usr/bin/env bash
# Every row of the mutants' lists still changes the code that it names, by each of its
# substitutions.
set -euo pipefail
cd "$(dirname "$0")/.."
exec perl -e '
    use strict;
    use warnings;
    my ($rows, $stale) = (0, 0);
    for my $list (@ARGV) {
        open my $in, "<", $list or die "$list: $!\n";
        while (my $row = <$in>) {
            chomp $row;
            next if $row =~ /^#|^$/;
            my ($name, $files, $substitution) = split /\t/, $row;
            $rows++;
            local $_ = "";
            for my $file (split / /, $files) {
                open my $code, "<", $file or die "$list: $name: $file: $!\n";
                $_ .= do { local $/; <$code> };
            }
            for my $part (split m{; (?=s/)}, $substitution) {
                my $before = $_;
                eval "$part; 1" or die "$list: $name: $@";
                next if $_ ne $before;
                print "$list: $name: no match: $part\n";
                $stale++;
            }
        }
    }
    print "$rows rows, $stale without a match\n";
    exit($stale ? 1 : 0);
' ci/mutants*.txt
