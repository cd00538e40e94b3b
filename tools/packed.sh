#!/usr/bin/env bash
# Packs the crates as for crates.io, compiles each from its package, and builds and runs a project that depends on the
# packed crates alone: the front page and the examples, on the demo model.
#
#   tools/packed.sh            about fifteen minutes on two cores when nothing is built yet
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

project=$(mktemp -d)
packages=$(mktemp -d)
# Cargo keeps what it unpacks of a package by the path of its registry and never looks again. A new path makes it
# compile the package of now; the copy it keeps is removed.
trap 'rm -rf "$project" "$packages" "${CARGO_HOME:-$HOME/.cargo}"/registry/src/-*/vitrum{,-kernels}-"$version"' EXIT

# --allow-dirty: a change that is tried is not committed yet.
cargo package --workspace --allow-dirty --target-dir "$packages"
mkdir -p "$project/src/bin" "$project/packed"
for crate in vitrum-kernels vitrum; do
    tar -xzf "$packages/package/$crate-$version.crate" -C "$project/packed"
    for file in README.md LICENSE-MIT LICENSE-APACHE; do
        test -s "$project/packed/$crate-$version/$file" || { echo "$crate: no $file in the package" >&2; exit 1; }
    done
done
# The project of examples/serve, on the packed crates.
cp examples/serve/src/main.rs "$project/src/bin/serve.rs"
sed "s#path = \"../../crates/vitrum\"#path = \"packed/vitrum-$version\"#" examples/serve/Cargo.toml > "$project/Cargo.toml"
cat >> "$project/Cargo.toml" <<TOML

[patch.crates-io]
vitrum-kernels = { path = "packed/vitrum-kernels-$version" }
TOML
# Each program of the front page compiles in a project that names vitrum and nothing of Burn.
awk -v folder="$project/src/bin" '
    /^```rust/ { block++; file = folder "/front" block ".rs"; next }
    /^```/ { file = ""; next }
    file { print > file }' "$project/packed/vitrum-$version/README.md"
cp "$project/packed/vitrum-$version"/examples/*.rs "$project/src/bin/"
cp Cargo.lock "$project/Cargo.lock"   # the same versions of everything that both need

export CARGO_TARGET_DIR=$target/packed
cd "$project"
cargo build --release --bins
for example in classify embed attention finetune own_data own_loop serve; do
    echo "== $example"
    "$CARGO_TARGET_DIR/release/$example"
done
test "$(find src/bin -name 'front*.rs' | wc -l)" -eq 2
echo "the packed crates work"
