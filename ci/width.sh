#!/usr/bin/env bash
# No line has more than 100 columns. Left out are tables of Markdown, also in comments, links that
# are longer, and what is a record and not text: locked dependencies, the mutants' lists, what a
# compiler is expected to say, inputs of fuzzing, and an example's recorded output.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -z '*.rs' '*.md' '*.toml' '*.sh' '*.py' '*.c' '*.h' '*.html' .ci |
    perl -0 -ne '
        use strict;
        use warnings;
        chomp;
        open my $in, "<:encoding(UTF-8)", $_ or die "$_: $!\n";
        local $/ = "\n";
        while (my $line = <$in>) {
            chomp $line;
            next if length $line <= 100;
            # A row of a table, in code only in a comment; a heading of TOML; a link.
            next if $line =~ m{^\s*//[!/]\s*\|} or $line =~ m{^\[.*\]$};
            next if !/\.rs$/ and $line =~ m{^\s*\|};
            next if $line =~ m{^\W*https?://\S+$};
            print "$_:$.: ", length $line, " columns\n";
            our $wide++;
        }
        END { our $wide; exit($wide ? 1 : 0) }
    '
