#!/bin/sh
# Puts LLVM into .llvm, for the features `cuda` and `cubecpu` on a machine that cannot reach GitHub.
#
#   tools/llvm.sh
#
# Elsewhere it is not needed: the build downloads LLVM from GitHub by itself. The files come from PyPI (two wheels of
# 92 MB for Linux on x86_64, 396 MB unpacked, Apache-2.0 with LLVM's exception). Needs python3 with pip; the build
# runs python3 again. A second call does nothing.
set -eu
cd "$(dirname "$0")/.."

version=23.1.1.post0
# The folder where tracel-llvm-bundler looks, as .cargo/config.toml sets XDG_DATA_HOME. With this file in it, the
# bundler downloads nothing.
folder=$PWD/.llvm/tracel/tracel-llvm-23.1.0-4
installed=$folder/.tracel-llvm-installed
if [ -e "$installed" ]; then
    echo "LLVM is in $folder already"
    exit 0
fi
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "tools/llvm.sh: PyPI's files are for Linux on x86_64, this is $(uname -sm)" >&2
    echo "hint: without this script the build downloads LLVM from GitHub" >&2
    exit 1
fi

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
cat > "$temporary/wheels.txt" <<HASHES
mlc-llvm-static==$version --hash=sha256:dcfec888abfaa418be77d41af585805f31463584cf9c90582992c00f392c1ac5
mlc-llvm-static-extra-targets==$version --hash=sha256:c36e834d9a4e9cf9759f27fece65711ece7a2fc2b5a96dbb15d66f5e9e787929
HASHES
python3 -m pip download -q --no-deps --only-binary :all: --require-hashes -d "$temporary" -r "$temporary/wheels.txt"
for wheel in "$temporary"/*.whl; do
    python3 -m zipfile -e "$wheel" "$temporary/unpacked"
done
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
mv "$temporary/unpacked/mlc_llvm_static/static" "$folder"
chmod +x "$folder/bin/llvm-config"
found=$("$folder/bin/llvm-config" --link-static --version)
if [ "$found" != 23.1.1 ]; then
    echo "tools/llvm.sh: llvm-config says version $found, expected 23.1.1" >&2
    exit 1
fi
touch "$installed"
echo "LLVM $found is in $folder"
