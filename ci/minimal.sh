#!/usr/bin/env bash
# Everything builds with the oldest versions of its dependencies that the manifests allow, with each
# set of features. Needs a nightly toolchain to choose the versions; the build is by the stable one.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp -r Cargo.toml README.md docs examples src sys "$folder"
rm -r "$folder"/examples/wordcount
cd "$folder"
# What only the tests and benchmarks need may be as new as it likes.
perl -0pi -e '
    s/^members = .*$/members = ["sys"]/m;
    s/^default-members = .*\n//m;
    s/^\[\[(?:bench|test)\]\]\n(?:.+\n)*//mg;
    s/^\[(?:target\..*)?dev-dependencies\]\n(?:(?!\[).*\n)*//mg;' Cargo.toml sys/Cargo.toml
cargo +nightly update --quiet -Z direct-minimal-versions
for features in '' serde tokio serde,tokio; do
    echo "features: ${features:-none}"
    cargo check --quiet --target-dir "$root/target/minimal" -p crossproc --lib \
        --features "$features"
done
